/** The API key that a closed service asks for. It stays in this tab. */

const STORED = 'nabla.key'

class Key {
  value = $state(stored())

  get header(): Record<string, string> {
    return this.value ? { Authorization: `Bearer ${this.value}` } : {}
  }

  set(value: string): void {
    this.value = value.trim()
    try {
      sessionStorage.setItem(STORED, this.value)
    } catch {
      // It holds until the page is closed.
    }
  }
}

function stored(): string {
  try {
    return sessionStorage.getItem(STORED) ?? ''
  } catch {
    return ''
  }
}

export const key = new Key()
