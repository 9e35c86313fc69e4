"""What this machine takes for a unit of counted work, measured once and kept."""
