"""From a checked table and settings to a fitted result. Start at `driver.fitted`; users have `estimators`."""
