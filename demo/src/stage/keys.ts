/** Whether a key moves the lab: not where its target, or a dialog, has a use for it. */
export function moves(event: KeyboardEvent): boolean {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return false
  const target = event.target instanceof Element ? event.target : undefined
  if (!target || target === document.body) return true
  if (document.querySelector('dialog[open]')) return false
  return !target.closest(owners(event.key))
}

const TYPED = 'input:not([type="range"], [type="checkbox"], [type="radio"], [type="button"]), textarea, select, [contenteditable]'

/** What uses a key itself. An element of a lab that does carries `data-keys`. */
export function owners(key: string): string {
  if (key === '?') return TYPED
  if (key === ' ') return `${TYPED}, button, summary, a, input, [role="button"], [data-keys]`
  return `${TYPED}, input, [role="slider"], [role="radio"], [role="tab"], [role="region"], [data-keys]`
}
