//! Maps in memory: what one would keep results in where nothing has to outlive the process.

use std::sync::Arc;

pub(crate) type Body = Arc<[u8]>;

/// A concurrent map from keys to bodies, each as its own documentation uses it.
pub(crate) trait Map: Sync {
    fn insert(&self, key: String, body: Body);
    /// The body, owned: what an engine's record is, too.
    fn get(&self, key: &str) -> Option<Body>;
}

/// Names of the maps, and how one for so many keys is made.
pub(crate) type Make = fn(usize) -> Box<dyn Map>;
pub(crate) const MAPS: [(&str, Make); 5] = [
    ("dashmap", |_| Box::new(dashmap::DashMap::<String, Body>::new())),
    ("papaya", |_| Box::new(papaya::HashMap::<String, Body>::new())),
    ("scc", |_| Box::new(scc::HashMap::<String, Body>::new())),
    // Caches with room to spare, so that nothing is evicted.
    ("quick_cache", |keys| Box::new(quick_cache::sync::Cache::<String, Body>::new(keys * 2))),
    ("moka", |keys| Box::new(moka::sync::Cache::<String, Body>::new(keys as u64 * 2))),
];

impl Map for dashmap::DashMap<String, Body> {
    fn insert(&self, key: String, body: Body) {
        self.insert(key, body);
    }

    fn get(&self, key: &str) -> Option<Body> {
        self.get(key).map(|body| Arc::clone(&body))
    }
}

impl Map for papaya::HashMap<String, Body> {
    fn insert(&self, key: String, body: Body) {
        self.pin().insert(key, body);
    }

    fn get(&self, key: &str) -> Option<Body> {
        self.pin().get(key).cloned()
    }
}

impl Map for scc::HashMap<String, Body> {
    fn insert(&self, key: String, body: Body) {
        drop(self.insert_sync(key, body));
    }

    fn get(&self, key: &str) -> Option<Body> {
        self.read_sync(key, |_, body| Arc::clone(body))
    }
}

impl Map for quick_cache::sync::Cache<String, Body> {
    fn insert(&self, key: String, body: Body) {
        self.insert(key, body);
    }

    fn get(&self, key: &str) -> Option<Body> {
        self.get(key)
    }
}

impl Map for moka::sync::Cache<String, Body> {
    fn insert(&self, key: String, body: Body) {
        self.insert(key, body);
    }

    fn get(&self, key: &str) -> Option<Body> {
        self.get(key)
    }
}
