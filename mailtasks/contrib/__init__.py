"""What web frameworks need to send their mail through mailtasks; each needs its extra."""
