//! Snippets of documents that are the code of a test, word for word.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses a part of it")]

/// The Rust blocks of a document.
pub fn blocks(document: &str) -> Vec<&str> {
    document.split("```rust\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect()
}

/// The parts of a source between `// shown: ` and `// end`, without their indent.
pub fn regions(source: &str) -> Vec<String> {
    let parts = source.split("// shown: ").skip(1).map(|part| part.split("// end\n").next().unwrap());
    let unindented = |part: &str| {
        let lines = part.lines().skip(1).map(|line| line.strip_prefix("    ").unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    };
    parts.map(unindented).collect()
}
