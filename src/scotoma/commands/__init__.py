"""The verbs: signature, documentation, argument checks; the work is imported in the last lines."""
