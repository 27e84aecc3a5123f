//! The top level of a module: version, target, variables, and where each function's body lies.

use super::*;

/// An entry or device function; its body is text until somebody asks.
#[derive(Debug, Clone)]
pub(crate) struct Function<'a> {
    /// `.visible`, `.extern`, `.weak` or nothing.
    pub(crate) linkage: &'a str,
    pub(crate) name: &'a str,
    pub(crate) entry: bool,
    pub(crate) params: Vec<ParamDecl<'a>>,
    pub(crate) returns: Vec<ParamDecl<'a>>,
    /// Byte offset and line just behind the opening brace; none for a mere declaration.
    pub(crate) body: Option<(usize, u32)>,
    pub(crate) line: u32,
    /// `.reqntid`, when given.
    pub(crate) reqntid: Option<[u32; 3]>,
    /// `.maxntid`, when given: the most threads a block may have.
    pub(crate) maxntid: Option<u64>,
    /// `.reqnctapercluster`, when given.
    pub(crate) cluster: Option<[u32; 3]>,
    /// `.maxclusterrank`, when given.
    pub(crate) max_cluster: Option<u32>,
    /// `.explicitcluster` and `.blocksareclusters`.
    pub(crate) explicit_cluster: bool,
    pub(crate) blocks_are_clusters: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Top<'a> {
    pub(crate) version: (u32, u32),
    pub(crate) target: &'a str,
    pub(crate) functions: Vec<Function<'a>>,
    pub(crate) variables: Vec<Var<'a>>,
    /// `.file` table.
    pub(crate) files: Vec<(u32, &'a str)>,
}

/// Scans a module's top level: an arm for each directive.
pub(crate) fn parse_top<'a>(file: &'a str, text: &'a str) -> Result<Top<'a>> {
    let mut p = Parser::new(file, text, 0, 1);
    let mut top = Top::default();
    let mut versioned = false;
    let mut linkage = "";
    loop {
        let token = p.next();
        let word = match token.kind {
            Kind::End => break,
            Kind::Word(w) => w,
            Kind::Punct(b';') => continue,
            _ => return p.error(token, "expected a directive"),
        };
        match word {
            ".version" => {
                let token = p.lexer.peek();
                let v = p.word()?;
                let Some((major, minor)) =
                    v.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
                else {
                    return p.error(token, "expected a version such as 8.0");
                };
                top.version = (major, minor);
                versioned = true;
            }
            ".target" => {
                top.target = p.word()?;
                while p.eat(b',') {
                    p.word()?;
                }
            }
            ".address_size" => {
                if p.int()? != 64 {
                    return p.error(token, "only 64-bit addresses are supported");
                }
            }
            ".visible" | ".weak" | ".common" | ".extern" => {
                linkage = word;
                continue;
            }
            ".global" => p.variables(Space::Global, linkage, &mut top.variables)?,
            ".const" => p.variables(Space::Const, linkage, &mut top.variables)?,
            ".shared" => p.variables(Space::Shared, linkage, &mut top.variables)?,
            ".entry" | ".func" => {
                let f = function(&mut p, linkage, word == ".entry", token.line)?;
                top.functions.push(f);
            }
            ".file" => {
                let number = p.int()?;
                if let Kind::Str(name) = p.next().kind {
                    top.files.push((number as u32, name));
                }
                while p.eat(b',') {
                    p.int()?;
                }
            }
            ".section" => {
                p.word()?;
                p.expect(b'{')?;
                if !p.lexer.skip_braces() {
                    return p.error(token, "section is not closed");
                }
            }
            ".pragma" | ".alias" => p.skip_to_semicolon(),
            _ => return p.error(token, "unknown directive at module level"),
        }
        linkage = "";
    }
    if !versioned {
        let token = p.next();
        return p.error(token, "no .version directive: this is not PTX");
    }
    match twice(&top) {
        None => Ok(top),
        Some((name, line)) => Err(LoadError {
            kind: LoadErrorKind::Invalid,
            file: file.to_owned(),
            line,
            text: name.to_owned(),
            message: "it is defined twice".to_owned(),
        }),
    }
}

/// A name that stands for two things of the module.
fn twice<'a>(top: &Top<'a>) -> Option<(&'a str, u32)> {
    let mut names = std::collections::HashSet::new();
    let variables = top.variables.iter().filter(|v| v.linkage != ".extern").map(|v| (v.name, v.line));
    let functions = top.functions.iter().filter(|f| f.body.is_some()).map(|f| (f.name, f.line));
    variables.chain(functions).find(|(name, _)| !names.insert(*name))
}

fn function<'a>(p: &mut Parser<'a>, linkage: &'a str, entry: bool, line: u32) -> Result<Function<'a>> {
    let mut f = Function {
        linkage,
        name: "",
        entry,
        params: Vec::new(),
        returns: Vec::new(),
        body: None,
        line,
        reqntid: None,
        maxntid: None,
        cluster: None,
        max_cluster: None,
        explicit_cluster: false,
        blocks_are_clusters: false,
    };
    if matches!(p.peek(), Kind::Word(".attribute")) {
        p.next();
        while !matches!(p.next().kind, Kind::Punct(b')') | Kind::End) {}
    }
    if !entry && p.peek() == Kind::Punct(b'(') {
        f.returns = params(p)?;
    }
    f.name = p.word()?;
    if p.peek() == Kind::Punct(b'(') {
        f.params = params(p)?;
    }
    loop {
        let token = p.next();
        match token.kind {
            Kind::Punct(b';') => return Ok(f),
            Kind::Punct(b'{') => {
                if f.reqntid.is_some() && f.maxntid.is_some() {
                    return p.error(token, "`.maxntid` and `.reqntid` exclude each other");
                }
                if f.cluster.is_some() && f.max_cluster.is_some() {
                    return p.error(token, "`.maxclusterrank` and `.reqnctapercluster` exclude each other");
                }
                if f.blocks_are_clusters && (f.cluster.is_none() || f.reqntid.is_none()) {
                    return p.error(token, "`.blocksareclusters` takes `.reqntid` and `.reqnctapercluster`");
                }
                f.body = Some((p.lexer.at, p.lexer.line));
                if !p.lexer.skip_braces() {
                    return p.error(token, format!("the body of `{}` is not closed", f.name));
                }
                return Ok(f);
            }
            Kind::Word(".reqntid") => f.reqntid = Some(sizes(p)?),
            Kind::Word(".maxntid") => f.maxntid = Some(sizes(p)?.iter().map(|v| u64::from(*v)).product()),
            Kind::Word(".reqnctapercluster") => f.cluster = Some(sizes(p)?),
            Kind::Word(".maxclusterrank") => {
                let token = p.lexer.peek();
                match u32::try_from(p.int()?) {
                    Ok(most) if most > 0 => f.max_cluster = Some(most),
                    _ => return p.error(token, "a size of blocks or clusters is at least 1"),
                }
            }
            Kind::Word(".explicitcluster") => f.explicit_cluster = true,
            Kind::Word(".blocksareclusters") => f.blocks_are_clusters = true,
            Kind::Word(".maxnreg" | ".minnctapersm" | ".maxnctapersm") => {
                p.int()?;
            }
            Kind::Word(".noreturn") => {}
            Kind::Word(".pragma") => p.skip_to_semicolon(),
            Kind::Word(".abi_preserve" | ".abi_preserve_control") => {
                p.int()?;
            }
            _ => return p.error(token, "unexpected in a function header"),
        }
    }
}

/// Up to three sizes, each at least 1.
fn sizes(p: &mut Parser<'_>) -> Result<[u32; 3]> {
    let mut n = [1u32; 3];
    let mut at = 0;
    loop {
        let token = p.lexer.peek();
        let v = p.int()?;
        if v < 1 {
            return p.error(token, "a size of blocks or clusters is at least 1");
        }
        if at < 3 {
            n[at] = v.min(1 << 20) as u32;
        }
        at += 1;
        if !p.eat(b',') {
            return Ok(n);
        }
    }
}

fn params<'a>(p: &mut Parser<'a>) -> Result<Vec<ParamDecl<'a>>> {
    let mut out = Vec::new();
    p.expect(b'(')?;
    while !p.eat(b')') {
        let mut decl = ParamDecl { name: "", ty: Ty::B32, align: 0, size: 0, register: false };
        let mut pointer = false;
        loop {
            let token = p.lexer.peek();
            match token.kind {
                Kind::Word(".param") => {}
                Kind::Word(".reg") => decl.register = true,
                Kind::Word(".ptr") => pointer = true,
                Kind::Word(".global" | ".shared" | ".const" | ".local") if pointer => {}
                Kind::Word(".align") => {
                    p.next();
                    let align = p.size()?;
                    if !align.is_power_of_two() {
                        return p.error(token, "alignment is not a power of two");
                    }
                    // `.ptr .align` speaks of what is pointed to.
                    if !pointer {
                        decl.align = align;
                    }
                    continue;
                }
                Kind::Word(w) if w.starts_with('.') => match Ty::parse(&w[1..]) {
                    Some(ty) => decl.ty = ty,
                    None => return p.error(token, "unknown word in a parameter list"),
                },
                _ => break,
            }
            p.next();
        }
        decl.name = p.word()?;
        if decl.ty == Ty::Pred && !decl.register {
            let token = p.lexer.peek();
            return p.error(token, "a predicate is a register");
        }
        decl.size = decl.ty.bytes();
        if p.eat(b'[') {
            let token = p.lexer.peek();
            let count = if p.peek() == Kind::Punct(b']') { 0 } else { p.size()? };
            if count > 1 << 20 {
                return p.error(token, "parameter too large");
            }
            decl.size *= count;
            p.expect(b']')?;
        }
        decl.align = decl.align.max(decl.ty.bytes());
        out.push(decl);
        if !p.eat(b',') {
            p.expect(b')')?;
            break;
        }
    }
    Ok(out)
}
