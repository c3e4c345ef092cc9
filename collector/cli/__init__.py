"""`traffic-collector`: one module for each family of commands."""
