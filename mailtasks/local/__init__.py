"""What runs on this machine only: a private Redis, the catching SMTP server, child processes on a leash."""
