"""Parameters and operations of every variant, beside published figures."""
