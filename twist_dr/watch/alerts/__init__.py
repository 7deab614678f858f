"""What must be told, and to whom: rules, one alert per cause, and the ways to people."""
