"""The search: what may be tried, how a trial runs, who decides, who executes, how the best are confirmed."""
