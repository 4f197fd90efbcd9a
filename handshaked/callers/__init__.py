"""Limits and fairness for local callers: connections, time, messages, memory, threads, log lines; an account each."""
