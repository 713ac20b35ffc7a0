"""Running a study: what to train next, Ray that trains it, Optuna that searches, and the records of it all."""
