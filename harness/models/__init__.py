"""From a name in the config (`resolve`) to a loaded model (`loading`), and what it was measured to be (`audit`)."""
