/** How much room there is. */
class ScreenSize {
  /** Whether the page is as narrow as on a phone: controls are a sheet then. */
  phone = $state(false)

  constructor() {
    if (typeof matchMedia === 'undefined') return
    const query = matchMedia('(max-width: 699.9px)')
    this.phone = query.matches
    query.addEventListener('change', (event) => (this.phone = event.matches))
  }
}
export const screenSize = new ScreenSize()
