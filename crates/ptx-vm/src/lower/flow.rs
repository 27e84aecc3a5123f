//! Control flow: basic blocks, dominators, and where diverged lanes meet again.

use crate::ir::{Flow, Raw};

/// A straight run of instructions.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) next: Vec<usize>,
}

pub(crate) struct Graph {
    pub(crate) blocks: Vec<Block>,
    /// Block of each instruction.
    pub(crate) of: Vec<usize>,
}

const NONE: usize = usize::MAX;

impl Graph {
    pub(crate) fn new(code: &[Raw], labels: u32) -> Graph {
        let mut blocks: Vec<Block> = Vec::new();
        let mut of = vec![0; code.len()];
        let mut at = vec![NONE; labels as usize];
        let mut fresh = true;
        for (i, raw) in code.iter().enumerate() {
            let label = matches!(raw.flow, Flow::Label(_));
            if fresh
                || label
                    && blocks.last().is_some_and(|b| code[b.start..i].iter().any(|r| !matches!(r.flow, Flow::Label(_))))
            {
                blocks.push(Block { start: i, end: i, next: Vec::new() });
            }
            let block = blocks.len() - 1;
            if let Flow::Label(id) = raw.flow {
                at[id as usize] = block;
            }
            of[i] = block;
            blocks[block].end = i + 1;
            fresh = !matches!(raw.flow, Flow::Next | Flow::Label(_));
        }
        let count = blocks.len();
        for (b, block) in blocks.iter_mut().enumerate() {
            let last = &code[block.end - 1];
            let falls = b + 1 < count;
            let mut go = |to: usize| {
                if to != NONE && !block.next.contains(&to) {
                    block.next.push(to);
                }
            };
            match last.flow {
                Flow::Jump(id) => go(at[id as usize]),
                Flow::Branch(id) => {
                    if falls {
                        go(b + 1);
                    }
                    go(at[id as usize]);
                }
                Flow::Exit | Flow::Ret | Flow::Trap if last.guard.is_none() => {}
                _ => {
                    if falls {
                        go(b + 1);
                    }
                }
            }
        }
        Graph { blocks, of }
    }

    /// Immediate dominators; `usize::MAX` for the root and what it does not reach.
    pub(crate) fn dominators(&self) -> Vec<usize> {
        let next: Vec<Vec<usize>> = self.blocks.iter().map(|b| b.next.clone()).collect();
        immediate_dominators(&next, 0)
    }

    /// For each block the block where lanes that part at its end meet again, or `usize::MAX`.
    ///
    /// A lane that exits need not be waited for. So only the exit most blocks lead to counts as the end of the program; paths to
    /// other exits are dead ends, ignored wherever there is another way. Regions of nothing but dead ends are looked at by themselves.
    pub(crate) fn meets(&self, code: &[Raw]) -> Vec<usize> {
        let n = self.blocks.len();
        let mut back: Vec<Vec<usize>> = vec![Vec::new(); n + 1];
        for (b, block) in self.blocks.iter().enumerate() {
            for &to in &block.next {
                back[to].push(b);
            }
        }
        let exits: Vec<usize> = (0..n).filter(|b| self.blocks[*b].next.is_empty()).collect();
        let reach = |from: usize| {
            let mut seen = vec![false; n];
            let mut queue = vec![from];
            seen[from] = true;
            let mut count = 0;
            while let Some(b) = queue.pop() {
                count += 1;
                for &p in &back[b] {
                    if !seen[p] {
                        seen[p] = true;
                        queue.push(p);
                    }
                }
            }
            (count, seen)
        };
        let mut best: Option<(usize, usize)> = None;
        // Many exits are rare; looking at the last few is enough to find the one that matters.
        for &e in exits.iter().rev().take(64) {
            let trap = self.blocks[e].start < code.len() && code[self.blocks[e].end - 1].flow == Flow::Trap;
            let count = if trap { 0 } else { reach(e).0 };
            if best.is_none_or(|(most, _)| count > most) {
                best = Some((count, e));
            }
        }
        let Some((_, main)) = best else { return vec![NONE; n] };
        let reaches_main = reach(main).1;
        // The virtual end is node n; edges run backwards from it.
        let mut first = back.clone();
        first[n] = vec![main];
        let mut meets = immediate_dominators(&first, n);
        meets.truncate(n);
        let mut second = back;
        second[n] = exits;
        let all = immediate_dominators(&second, n);
        for b in 0..n {
            if !reaches_main[b] {
                meets[b] = all[b];
            }
            if meets[b] == n {
                meets[b] = NONE;
            }
        }
        meets
    }
}

/// Cooper, Harvey and Kennedy's algorithm, in one piece as it was published.
fn immediate_dominators(next: &[Vec<usize>], root: usize) -> Vec<usize> {
    let n = next.len();
    let mut order = Vec::with_capacity(n);
    let mut state = vec![0u8; n];
    let mut stack = vec![(root, 0usize)];
    state[root] = 1;
    while let Some((node, i)) = stack.pop() {
        if let Some(&to) = next[node].get(i) {
            stack.push((node, i + 1));
            if state[to] == 0 {
                state[to] = 1;
                stack.push((to, 0));
            }
        } else {
            order.push(node);
        }
    }
    order.reverse();
    let mut number = vec![NONE; n];
    for (i, node) in order.iter().enumerate() {
        number[*node] = i;
    }
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); n];
    for &node in &order {
        for &to in &next[node] {
            before[to].push(node);
        }
    }
    let mut idom = vec![NONE; n];
    idom[root] = root;
    let mut changed = true;
    while changed {
        changed = false;
        for &node in order.iter().skip(1) {
            let mut new = NONE;
            for &p in &before[node] {
                if idom[p] == NONE {
                    continue;
                }
                new = if new == NONE {
                    p
                } else {
                    let (mut a, mut b) = (p, new);
                    while a != b {
                        while number[a] > number[b] {
                            a = idom[a];
                        }
                        while number[b] > number[a] {
                            b = idom[b];
                        }
                    }
                    a
                };
            }
            if idom[node] != new {
                idom[node] = new;
                changed = true;
            }
        }
    }
    idom[root] = NONE;
    idom
}

/// Whether `a` dominates `b` in the tree `idom`.
pub(crate) fn dominates(idom: &[usize], a: usize, mut b: usize) -> bool {
    loop {
        if a == b {
            return true;
        }
        if b == NONE || idom[b] == NONE {
            return false;
        }
        b = idom[b];
    }
}
