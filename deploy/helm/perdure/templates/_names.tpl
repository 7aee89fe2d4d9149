{{- /* Only what Go's templates and Sprig have: no `include`, so that it renders without Helm as well. */ -}}
{{- define "perdure.name" -}}
{{- if .Values.nameOverride -}}
{{- .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* What selects the pod: never changes. On one line, so that it stands at any depth. */ -}}
{{- define "perdure.selector" -}}
app.kubernetes.io/name: perdure, app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "perdure.labels" -}}
{ {{ template "perdure.selector" . }}, app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}, app.kubernetes.io/managed-by: {{ .Release.Service | quote }}, helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}, perdure/region: {{ .Values.region | quote }} }
{{- end -}}

{{- define "perdure.peerTls" -}}
{{- if .Values.peerTls.certManager.enabled -}}
{{ template "perdure.name" . }}-peer-tls
{{- else -}}
{{- required "peerTls.existingSecret: name the Secret with this region's certificate, or enable peerTls.certManager" .Values.peerTls.existingSecret -}}
{{- end -}}
{{- end -}}
