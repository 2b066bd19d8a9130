"""jaxpg: a JAX-native, functional policy-gradient toolkit."""
