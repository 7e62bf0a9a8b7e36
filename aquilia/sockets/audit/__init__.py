"""The audit: what touches security, as records, in the log and in a file that shows if it was changed."""
