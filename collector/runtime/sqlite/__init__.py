"""SQLite files of ours: opened, verified, migrated, made whole, and backed up while in use."""
