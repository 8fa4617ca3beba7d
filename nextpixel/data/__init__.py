"""From whatever the user names to integer images; empty of imports, so that `settings` is read without torch."""
