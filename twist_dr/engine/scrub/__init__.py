"""Reading what storage targets hold again, in a rotation, and mending what went bad there."""
