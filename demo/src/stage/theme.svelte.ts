/** Light, dark, or as the system has it. The class `light` or `dark` on <html> says which colours hold. */

export type Choice = 'system' | 'light' | 'dark'
const STORED = 'nabla.theme'

class Theme {
  choice = $state<Choice>('system')
  #system = $state(false)
  /** Whether the dark colours hold now. */
  dark = $derived(this.choice === 'system' ? this.#system : this.choice === 'dark')

  /** Read the stored choice (or `?theme=`) and follow the system from now on. */
  begin(): void {
    const query = matchMedia('(prefers-color-scheme: dark)')
    this.#system = query.matches
    query.addEventListener('change', (event) => {
      this.#system = event.matches
      this.#show()
    })
    const asked = new URLSearchParams(location.search).get('theme') ?? stored()
    if (asked === 'light' || asked === 'dark') this.choice = asked
    this.#show()
  }

  choose(choice: Choice): void {
    this.choice = choice
    this.#show()
    try {
      localStorage.setItem(STORED, choice)
    } catch {
      // The choice holds for this visit.
    }
  }

  #show(): void {
    const classes = document.documentElement.classList
    classes.toggle('dark', this.dark)
    classes.toggle('light', !this.dark)
  }
}

function stored(): string | null {
  try {
    return localStorage.getItem(STORED)
  } catch {
    return null
  }
}

export const theme = new Theme()

/** The value of a colour of the present theme for code that draws: `colour('--positive')`. Reactive. */
export function colour(name: `--${string}`): string {
  void theme.dark
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

class Motion {
  /** Whether the reader asks for less motion. */
  reduced = $state(false)

  constructor() {
    if (typeof matchMedia === 'undefined') return
    const query = matchMedia('(prefers-reduced-motion: reduce)')
    this.reduced = query.matches
    query.addEventListener('change', (event) => (this.reduced = event.matches))
  }
}
export const motion = new Motion()
