//! Who calls: keys, tokens, addresses, rate limits, and the end of each of them.

mod ambiguous_tokens;
mod keys;
mod limits;
mod lookups;
mod products;
mod proxies;
mod revocation;
mod shapes;
mod tokens;
