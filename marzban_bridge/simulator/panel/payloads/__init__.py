"""What the panels accept as a user: JSON in, values out, or a refusal that names the fields."""
