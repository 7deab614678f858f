"""Looking after it: what is due, what is wrong, who is told, and whether you are safe."""
