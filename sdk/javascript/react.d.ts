/** Hooks for React (18 or newer). */

import type { Client, Member, Present, SessionView } from "./perdure.js";

export interface UseSessionOptions extends Present {
  /** Shown at first, and gone on from: a view that a server made, or that was saved. */
  view?: SessionView;
}

/** The view of a session, rendered anew as it grows. One reader for all components that use it. */
export function useSession(client: Client, id: string, options?: UseSessionOptions): SessionView;

/** Who is in a session; rendered anew when that changes. */
export function usePresence(client: Client, id: string, options?: UseSessionOptions): readonly Readonly<Member>[];
