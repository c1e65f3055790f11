"""Step advantages inside OpenRLHF's PPO trainers: sampled, graded and valued by the engines that roll out."""
