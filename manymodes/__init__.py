"""The command line of manymodes: thin, and quick to answer because it imports what a command needs when it runs."""
