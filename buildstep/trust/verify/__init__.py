"""Whether what is there is what somebody has signed: evidence, how a policy judges it, and the answer."""
