"""Text front end: what was written -> words to say -> phones, and long text -> segments."""
