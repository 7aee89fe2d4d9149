/** Hooks for React (18 or newer). */

import type { Client, DocumentValue, Member, Present, Session, SessionView } from "./perdure.js";

export interface UseSessionOptions extends Present {
  /** Shown at first, and gone on from: a view that a server made, or that was saved. */
  view?: SessionView;
}

/** The view of a session, rendered anew as it grows. One reader for all components that use it. */
export function useSession(client: Client, id: string, options?: UseSessionOptions): SessionView;

/** Who is in a session; rendered anew when that changes. */
export function usePresence(client: Client, id: string, options?: UseSessionOptions): readonly Readonly<Member>[];

/** A shared document, rendered anew when it has changed; null where there is none. */
export function useDocument(session: Session, id: string): DocumentValue | null;
