"""The scikit-learn face: words become objects, numbers get names. Start at `poplin.estimators.pln.PLN`."""
