"""Services: templates with parameters, instances of them, and a life cycle of actions, here and on nodes."""
