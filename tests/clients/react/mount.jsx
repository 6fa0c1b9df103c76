// Opens a page on the conversation that its address names: `?id=`.

import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';

export const address = new URLSearchParams(location.search);
export const id = address.get('id');

/** What the server holds of a conversation; nothing of one that does not exist yet. */
export async function loadChat(id) {
  const response = await fetch(`/api/chat/${encodeURIComponent(id)}`);
  return response.ok ? (await response.json()).messages : [];
}

/** Shows the page; in strict mode, as a development server does, so every effect runs twice. */
export function mount(page) {
  createRoot(document.getElementById('root')).render(<StrictMode>{page}</StrictMode>);
}
