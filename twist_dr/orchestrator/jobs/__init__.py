"""What someone launches."""
