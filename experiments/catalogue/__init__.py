"""Every system: its paper, what implements it, its experiment, its recorded result."""
