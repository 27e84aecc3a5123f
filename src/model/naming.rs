//! Names of tensors in checkpoints as trainers write them.
//!
//! Wrappers put a word before every name (`module.` of distributed training, `_orig_mod.` of compilation), single-file checkpoints hold the diffusion
//! model among others (`model.diffusion_model.`), and training states hold averaged weights (`ema.`) beside the others.

/// What stands before every name and says nothing.
const WRAPPERS: [&str; 10] = [
    "module.",
    "_orig_mod.",
    "model.diffusion_model.",
    "diffusion_model.",
    "state_dict.",
    "ema_model.",
    "ema.",
    "model.",
    "transformer.",
    "text_encoder.",
];

/// What stands before the names to take, if others are there too, the first one the better.
const SETS: [&str; 4] = ["ema.", "ema_model.", "state_dict.", "model.diffusion_model."];

/// What is before the names of a checkpoint.
#[derive(Debug)]
pub(super) struct Naming {
    prefix: String,
    /// An example of the names that are left out.
    other: Option<String>,
    left_out: usize,
}

impl Naming {
    /// Finds out what is before `names`.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Naming {
        let all: Vec<&str> = names.collect();
        let mut rest: Vec<&str> = all.iter().copied().filter(|name| !is_mark(name)).collect();
        let (mut prefix, mut other) = (String::new(), None);
        while !rest.is_empty() {
            let wrapper = WRAPPERS.into_iter().find(|w| rest.iter().all(|name| name.starts_with(w)));
            let Some(found) =
                wrapper.or_else(|| SETS.into_iter().find(|s| rest.iter().any(|name| name.starts_with(s))))
            else {
                break;
            };
            other = other
                .or_else(|| rest.iter().find(|name| !name.starts_with(found)).map(|name| format!("{prefix}{name}")));
            rest = rest.iter().filter_map(|name| name.strip_prefix(found)).collect();
            prefix += found;
        }
        let left_out = all.len() - rest.len();
        Naming { prefix, other, left_out }
    }

    /// The plain name; `None` if the tensor is left out.
    pub(super) fn plain<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&*self.prefix).filter(|_| !is_mark(name))
    }

    /// The tensors that are left out.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// What a user should know.
    pub(super) fn remark(&self) -> Option<String> {
        let other = self.other.as_ref()?;
        Some(format!("of its sets of weights `{}*` is taken; `{other}` and others are left out", self.prefix))
    }
}

/// Whether a tensor only says that others are in eight bits.
fn is_mark(name: &str) -> bool {
    name == "scaled_fp8" || name.ends_with(".scaled_fp8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_before_every_name_is_found() {
        for (names, plain) in [
            (&["a.weight", "b"][..], &[Some("a.weight"), Some("b")][..]),
            (&["module.a", "module.b"], &[Some("a"), Some("b")]),
            (&["module._orig_mod.a", "module._orig_mod.b"], &[Some("a"), Some("b")]),
            (&["model.diffusion_model.a", "first_stage_model.b", "cond_stage_model.c"], &[Some("a"), None, None]),
            (&["ema.module.a", "model.module.a", "optimizer.x"], &[Some("a"), None, None]),
            (&["model.a", "scaled_fp8"], &[Some("a"), None]),
            // Only one of them: it is a name.
            (&["module.a", "b"], &[Some("module.a"), Some("b")]),
        ] {
            let naming = Naming::of(names.iter().copied());
            let found: Vec<Option<&str>> = names.iter().map(|name| naming.plain(name)).collect();
            assert_eq!(found, plain);
            assert_eq!(naming.left_out(), plain.iter().filter(|name| name.is_none()).count());
        }
        let said = Naming::of(["ema.a", "model.a"].into_iter()).remark().unwrap();
        assert!(said.contains("ema.*") && said.contains("model.a"), "{said}");
    }
}
