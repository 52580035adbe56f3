"""One result, many readers: each module here renders a ``RunResult`` and computes nothing."""
