//! A function's body: declarations, labels, instructions.

use super::*;

/// Parses the body that starts at byte `at` (behind its brace) on `line`.
pub(crate) fn parse_body<'a>(file: &'a str, text: &'a str, at: usize, line: u32) -> Result<Vec<Stmt<'a>>> {
    let mut p = Parser::new(file, text, at, line);
    let mut body = Body { depth: 1, ..Body::default() };
    while !body.statement(&mut p)? {}
    Ok(body.out)
}

/// The same, as far as it can be read: statements that cannot be are left out, and listed in `errors`.
pub(crate) fn parse_readable<'a>(
    file: &'a str,
    text: &'a str,
    at: usize,
    line: u32,
    errors: &mut Vec<LoadError>,
) -> Vec<Stmt<'a>> {
    let mut whole = Lexer::new(text, at, line);
    whole.skip_braces();
    let mut p = Parser::new(file, text.get(..whole.at).unwrap_or(text), at, line);
    let mut body = Body { depth: 1, ..Body::default() };
    loop {
        let before = p.lexer.clone();
        match body.statement(&mut p) {
            Ok(true) => return body.out,
            Ok(false) => {}
            // That the end is missing follows from what was skipped.
            Err(error) if p.peek() == Kind::End && !errors.is_empty() && error.text == "end of file" => {
                return body.out;
            }
            Err(error) => {
                errors.push(error);
                p.lexer = before;
                p.skip_to_semicolon();
                if p.peek() == Kind::End {
                    return body.out;
                }
            }
        }
    }
}

/// A body, as far as it has been parsed.
#[derive(Default)]
struct Body<'a> {
    out: Vec<Stmt<'a>>,
    /// Braces that are open.
    depth: usize,
    vars: Vec<Var<'a>>,
}

impl<'a> Body<'a> {
    /// Parses one statement, an arm for each directive; true when it was the brace that ends the body.
    fn statement(&mut self, p: &mut Parser<'a>) -> Result<bool> {
        let Body { out, depth, vars } = self;
        let token = p.next();
        match token.kind {
            Kind::End => return p.error(token, "function body is not closed"),
            Kind::Punct(b'{') => {
                *depth += 1;
                out.push(Stmt::Open);
            }
            Kind::Punct(b'}') => {
                *depth -= 1;
                if *depth == 0 {
                    return Ok(true);
                }
                out.push(Stmt::Close);
            }
            Kind::Punct(b';') => {}
            Kind::Punct(b'@') => out.push(Stmt::Inst(guarded(p, token)?)),
            Kind::Word(word) if word.starts_with('.') => match word {
                ".reg" => registers(p, out)?,
                ".local" => p.variables(Space::Local, "", vars)?,
                ".shared" => p.variables(Space::Shared, "", vars)?,
                ".param" => p.variables(Space::Param, "", vars)?,
                ".global" => p.variables(Space::Global, "", vars)?,
                ".const" => p.variables(Space::Const, "", vars)?,
                ".loc" => {
                    let place = [p.int()? as u32, p.int()? as u32, p.int()? as u32];
                    let mut inlined_at = None;
                    // `.loc 1 5 3, function_name $L__info_string0, inlined_at 1 7 9`
                    while p.eat(b',') {
                        match p.word()? {
                            "function_name" => {
                                p.word()?;
                                if p.eat(b'+') {
                                    p.int()?;
                                }
                            }
                            "inlined_at" => inlined_at = Some([p.int()? as u32, p.int()? as u32, p.int()? as u32]),
                            _ => {}
                        }
                    }
                    out.push(Stmt::Loc(Loc { place, inlined_at }));
                }
                ".pragma" => p.skip_to_semicolon(),
                _ => return p.error(token, "unknown directive in a function body"),
            },
            Kind::Word(word) => {
                if p.eat(b':') {
                    match p.peek() {
                        Kind::Word(".branchtargets" | ".calltargets") => {
                            p.next();
                            let mut targets = vec![p.word()?];
                            while p.eat(b',') {
                                targets.push(p.word()?);
                            }
                            p.expect(b';')?;
                            out.push(Stmt::Targets(word, targets));
                        }
                        Kind::Word(".callprototype") => p.skip_to_semicolon(),
                        _ => out.push(Stmt::Label(word, token.line)),
                    }
                } else {
                    out.push(Stmt::Inst(instruction(p, token, None, word)?));
                }
            }
            _ => return p.error(token, "expected an instruction"),
        }
        out.extend(vars.drain(..).map(Stmt::Var));
        Ok(false)
    }
}

/// Parses the one instruction that starts at byte `at`.
pub(crate) fn parse_instruction(text: &str, at: usize) -> Result<Inst<'_>> {
    let mut p = Parser::new("", text, at, 0);
    let token = p.next();
    match token.kind {
        Kind::Punct(b'@') => guarded(&mut p, token),
        Kind::Word(opcode) => instruction(&mut p, token, None, opcode),
        _ => p.error(token, "expected an instruction"),
    }
}

/// An instruction behind its `@`.
fn guarded<'a>(p: &mut Parser<'a>, first: Token<'a>) -> Result<Inst<'a>> {
    let negated = p.eat(b'!');
    let guard = p.word()?;
    let word = p.next();
    let Kind::Word(opcode) = word.kind else { return p.error(word, "expected an instruction") };
    instruction(p, first, Some((guard, negated)), opcode)
}

fn registers<'a>(p: &mut Parser<'a>, out: &mut Vec<Stmt<'a>>) -> Result<()> {
    let token = p.next();
    let ty = match token.kind {
        Kind::Word(w) if w.starts_with('.') => Ty::parse(&w[1..]),
        _ => None,
    };
    let Some(ty) = ty else { return p.error(token, "expected a register type") };
    loop {
        let name = p.word()?;
        let mut count = None;
        if p.eat(b'<') {
            let token = p.lexer.peek();
            let n = p.size()?;
            if n > 1 << 22 {
                return p.error(token, "too many registers");
            }
            count = Some(n as u32);
            p.expect(b'>')?;
        }
        out.push(Stmt::Reg(name, count, ty, token.line));
        if !p.eat(b',') {
            break;
        }
    }
    p.expect(b';')?;
    Ok(())
}

fn instruction<'a>(
    p: &mut Parser<'a>,
    first: Token<'a>,
    guard: Option<(&'a str, bool)>,
    opcode: &'a str,
) -> Result<Inst<'a>> {
    let mut operands = Vec::new();
    if p.peek() != Kind::Punct(b';') {
        loop {
            operands.push(operand(p, 0)?);
            if !p.eat(b',') {
                break;
            }
        }
    }
    let end = p.expect(b';')?;
    Ok(Inst { line: first.line, text: p.lexer.slice(first.start, end.start), guard, opcode, operands })
}

/// An operand: an arm for each form.
fn operand<'a>(p: &mut Parser<'a>, depth: usize) -> Result<Operand<'a>> {
    let token = p.next();
    if depth > 4 {
        return p.error(token, "operand nested too deeply");
    }
    let one = match token.kind {
        Kind::Word(w) => match number(w) {
            Some(n) => n,
            None if p.eat(b'+') => Operand::NameOffset(w, p.int()? as i64),
            None if p.eat(b'[') => {
                let index = p.int()? as i64;
                p.expect(b']')?;
                Operand::Element(w, index)
            }
            None => Operand::Name(w),
        },
        Kind::Punct(b'-') => {
            let token = p.next();
            match token.kind {
                Kind::Word(w) => match number(w) {
                    Some(Operand::Int(v)) => Operand::Int(-v),
                    Some(Operand::F32(v)) => Operand::F32(v ^ 1 << 31),
                    Some(Operand::F64(v)) => Operand::F64(v ^ 1 << 63),
                    None => Operand::Negated(w),
                    _ => return p.error(token, "expected a number"),
                },
                _ => return p.error(token, "expected a number"),
            }
        }
        Kind::Punct(b'+') => return operand(p, depth + 1),
        Kind::Punct(b'!') => Operand::Not(p.word()?),
        Kind::Punct(b'{') => Operand::Vector(list(p, b'}', depth)?),
        Kind::Punct(b'(') => Operand::List(list(p, b')', depth)?),
        Kind::Punct(b'[') => {
            let mut base = None;
            let mut offset = 0i64;
            let mut sign = 1;
            loop {
                let token = p.next();
                match token.kind {
                    Kind::Punct(b'-') => sign = -sign,
                    Kind::Punct(b'+') => {}
                    Kind::Punct(b']') => break,
                    // `[tensor, {coordinates}]`
                    Kind::Punct(b',') => {
                        let mut parts = vec![Operand::Address(base, offset)];
                        parts.extend(list(p, b']', depth)?);
                        return Ok(Operand::List(parts));
                    }
                    Kind::Word(w) => {
                        match number(w) {
                            Some(Operand::Int(v)) => offset = offset.wrapping_add((v as i64).wrapping_mul(sign)),
                            None if base.is_none() && sign == 1 => base = Some(w),
                            _ => return p.error(token, "unsupported address"),
                        }
                        sign = 1;
                    }
                    _ => return p.error(token, "unsupported address"),
                }
            }
            Operand::Address(base, offset)
        }
        _ => return p.error(token, "expected an operand"),
    };
    if p.eat(b'|') {
        let second = operand(p, depth + 1)?;
        return Ok(Operand::Pair(Box::new(one), Box::new(second)));
    }
    Ok(one)
}

fn list<'a>(p: &mut Parser<'a>, close: u8, depth: usize) -> Result<Vec<Operand<'a>>> {
    let mut out = Vec::new();
    while !p.eat(close) {
        out.push(operand(p, depth + 1)?);
        if !p.eat(b',') {
            p.expect(close)?;
            break;
        }
    }
    Ok(out)
}
