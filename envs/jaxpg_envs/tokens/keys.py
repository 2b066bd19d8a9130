"""One random key for each prompt of a batch."""

import jax
import jax.numpy as jnp


def keys_of_prompts(key: jax.Array, ids: jax.Array) -> jax.Array:
    """Derive a key for each prompt from the prompt itself, not from its place in the batch.

    What is drawn for a prompt then does not change when the batch is permuted or cut in pieces
    (where no prompt stands twice). Copies of a prompt get different keys.

    Args:
      key: random key.
      ids: `[N]` int32, see `Prompts`.

    Returns:
      `[N]` keys, derived from `key`, the id, and how many copies of it stand before.

    >>> import jax
    >>> keys = keys_of_prompts(jax.random.key(0), jnp.array([5, 2, 5]))
    >>> swapped = keys_of_prompts(jax.random.key(0), jnp.array([2, 5, 5]))
    >>> (keys[0] == swapped[1]).item(), (keys[0] == keys[2]).item()
    (True, False)
    """
    order = jnp.argsort(ids, stable=True)
    places = jnp.argsort(order)
    copies_before = places - jnp.searchsorted(ids[order], ids)
    of_ids = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)
    return jax.vmap(jax.random.fold_in)(of_ids, copies_before)
