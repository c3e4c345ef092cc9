"""What tests share: programs, ports, rules held over many things, and what is drawn."""
