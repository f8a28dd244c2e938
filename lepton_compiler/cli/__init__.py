"""The command lines `leptonc` and `lepton`: arguments to options, outcomes to text, nothing more."""
