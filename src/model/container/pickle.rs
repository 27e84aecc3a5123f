//! A reader of Python's pickles that runs no code: what a dictionary of tensors is made of, and nothing else.
//!
//! A pickle is a program for a stack machine. Here its classes are names, of which three can be called: the one that makes an ordered
//! dictionary, and the two that make tensors and parameters of a storage. Whatever else it calls is an error with that name.

use std::collections::HashMap;
use std::rc::Rc;

use super::stored::{Refusal, unsupported};

/// Values on the stack at once, and remembered.
const MOST_VALUES: usize = 1 << 22;
/// Dictionaries in dictionaries.
const MOST_DEPTH: usize = 8;
/// Entries of all dictionaries that are looked through.
const MOST_ENTRIES: usize = 1 << 18;
/// Bytes of a tensor's name.
const MOST_NAME: usize = 1 << 10;

/// Elements of a file that tensors lie in.
#[derive(Debug, PartialEq)]
pub(super) struct Storage {
    /// The name of its class, such as `FloatStorage`.
    pub(super) class: Rc<str>,
    /// The name of its content.
    pub(super) key: Rc<str>,
    pub(super) elements: usize,
}

/// A tensor: a part of a storage.
#[derive(Debug)]
pub(super) struct View {
    pub(super) storage: Rc<Storage>,
    /// Of its first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

#[derive(Clone)]
enum Value {
    /// One of no interest: none, a truth value, a fraction, a list.
    Other,
    Int(i64),
    Text(Rc<str>),
    /// A class or a function, by its name.
    Global(Rc<str>),
    /// The number of a tuple.
    Tuple(usize),
    /// The number of a dictionary.
    Dict(usize),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
}

/// The stack machine. Tuples and dictionaries are numbered, so that values can be dropped without going into them.
struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

/// The tensors that the pickle `code` holds in its dictionary and those within, by their keys joined with dots.
pub(super) fn tensors(code: &[u8]) -> Result<Vec<(String, Rc<View>)>, Refusal> {
    let (stack, marks, memo) = (vec![], vec![], HashMap::new());
    let mut machine = Machine { code, at: 0, stack, marks, memo, tuples: vec![], dicts: vec![] };
    let Value::Dict(root) = machine.run()? else {
        return unsupported("it holds no dictionary of tensors: save `model.state_dict()`");
    };
    let (mut found, mut seen) = (vec![], 0);
    machine.collect(root, "", MOST_DEPTH, &mut seen, &mut found)?;
    Ok(found)
}

impl<'a> Machine<'a> {
    fn collect(
        &self,
        dict: usize,
        prefix: &str,
        depth: usize,
        seen: &mut usize,
        found: &mut Vec<(String, Rc<View>)>,
    ) -> Result<(), Refusal> {
        if depth == 0 {
            return Err(format!("it holds dictionaries in dictionaries, {MOST_DEPTH} deep").into());
        }
        for (key, value) in &self.dicts[dict] {
            *seen += 1;
            if *seen > MOST_ENTRIES {
                return Err("it holds too many entries".into());
            }
            let name = match key {
                Value::Text(text) if prefix.len() + text.len() <= MOST_NAME => format!("{prefix}{text}"),
                Value::Int(number) => format!("{prefix}{number}"),
                Value::Text(_) => return Err(format!("it has a name of more than {MOST_NAME} bytes").into()),
                _ => continue,
            };
            match value {
                Value::Tensor(view) => found.push((name, view.clone())),
                Value::Dict(inner) => self.collect(*inner, &(name + "."), depth - 1, seen, found)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let bytes = self.code[self.at..].get(..count).ok_or("its pickle is cut")?;
        self.at += count;
        Ok(bytes)
    }

    /// A number of `bytes` bytes, at most 8.
    fn number(&mut self, bytes: usize) -> Result<u64, Refusal> {
        Ok(self.bytes(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A text after its length of `bytes` bytes.
    fn text(&mut self, bytes: usize) -> Result<Value, Refusal> {
        let length = usize::try_from(self.number(bytes)?).unwrap_or(usize::MAX);
        Ok(Value::Text(String::from_utf8_lossy(self.bytes(length)?).into()))
    }

    fn line(&mut self) -> Result<&'a str, Refusal> {
        let length = self.code[self.at..].iter().position(|byte| *byte == b'\n').ok_or("its pickle is cut")?;
        let line = self.bytes(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "its pickle has a name that is no text".into())
    }

    fn push(&mut self, value: Value) -> Result<(), Refusal> {
        let known = self.stack.len() + self.memo.len();
        if known >= MOST_VALUES {
            return Err("its pickle holds too many values".into());
        }
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, Refusal> {
        let least = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= least { Err(damaged()) } else { self.stack.pop().ok_or_else(damaged) }
    }

    /// What is above the last mark, which goes.
    fn marked(&mut self) -> Result<Vec<Value>, Refusal> {
        let mark = self.marks.pop().ok_or_else(damaged)?;
        Ok(self.stack.split_off(mark))
    }

    fn last(&self) -> Result<&Value, Refusal> {
        self.stack.last().ok_or_else(damaged)
    }

    fn remember(&mut self, number: u32) -> Result<(), Refusal> {
        let value = self.last()?.clone();
        self.memo.insert(number, value);
        Ok(())
    }

    fn recall(&mut self, number: u64) -> Result<(), Refusal> {
        let number = u32::try_from(number).map_err(|_| damaged())?;
        let value = self.memo.get(&number).cloned().ok_or_else(damaged)?;
        self.push(value)
    }

    fn dict(&mut self) -> Result<(), Refusal> {
        self.dicts.push(vec![]);
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    fn tuple(&mut self, values: Vec<Value>) -> Result<(), Refusal> {
        self.tuples.push(values);
        self.push(Value::Tuple(self.tuples.len() - 1))
    }

    /// Puts keys and values, in turn, into the dictionary on the stack.
    fn set(&mut self, items: Vec<Value>) -> Result<(), Refusal> {
        let Value::Dict(dict) = *self.last()? else { return Err(damaged()) };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            self.dicts[dict].push((key, items.next().ok_or_else(damaged)?));
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Value, Refusal> {
        loop {
            let code = self.bytes(1)?[0];
            if code == b'.' {
                return self.pop();
            }
            self.step(code)?;
        }
    }

    /// One instruction.
    fn step(&mut self, code: u8) -> Result<(), Refusal> {
        match code {
            // The version, and the frames in which newer ones are read.
            0x80 => self.bytes(1).map(drop),
            0x95 => self.bytes(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.marked().map(drop),
            b'q' | b'r' => {
                let number = self.number(if code == b'q' { 1 } else { 4 })?;
                self.remember(number as u32)
            }
            0x94 => self.remember(self.memo.len() as u32),
            b'h' | b'j' => {
                let number = self.number(if code == b'h' { 1 } else { 4 })?;
                self.recall(number)
            }
            b')' | b't' | 0x85..=0x87 | b']' | b'a' | b'e' | b'}' | b's' | b'u' => self.gather(code),
            b'c' | 0x93 | b'Q' | b'R' | 0x81 | b'b' => self.object(code),
            _ => {
                let constant = self.constant(code)?;
                self.push(constant)
            }
        }
    }

    /// A constant in the code.
    fn constant(&mut self, code: u8) -> Result<Value, Refusal> {
        Ok(match code {
            b'N' | 0x88 | 0x89 => Value::Other,
            b'G' => {
                self.bytes(8)?;
                Value::Other
            }
            b'J' => Value::Int((self.number(4)? as u32 as i32).into()),
            b'K' => Value::Int(self.number(1)? as i64),
            b'M' => Value::Int(self.number(2)? as i64),
            0x8a => {
                let count = self.number(1)? as usize;
                let bytes = self.bytes(count)?;
                let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
                let mut whole = [if negative { 0xff } else { 0 }; 8];
                let fits = count <= whole.len();
                whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                if fits { Value::Int(i64::from_le_bytes(whole)) } else { Value::Other }
            }
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            other => {
                return unsupported(format!(
                    "its pickle has instruction {other:#04x}, which no dictionary of tensors needs"
                ));
            }
        })
    }

    /// Makes or fills a tuple, a list or a dictionary.
    fn gather(&mut self, code: u8) -> Result<(), Refusal> {
        match code {
            b')' => self.tuple(vec![]),
            b't' => {
                let values = self.marked()?;
                self.tuple(values)
            }
            // Of lists nothing is taken.
            b']' => self.push(Value::Other),
            b'a' => self.pop().map(drop),
            b'e' => self.marked().map(drop),
            b'}' => self.dict(),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])
            }
            b'u' => {
                let items = self.marked()?;
                self.set(items)
            }
            one_to_three => {
                let count = usize::from(one_to_three - 0x84);
                let mut values = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
                values.reverse();
                self.tuple(values)
            }
        }
    }

    /// Names a class, or makes an object of one.
    fn object(&mut self, code: u8) -> Result<(), Refusal> {
        match code {
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Value::Global(name.into()))
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push(Value::Global(format!("{module}.{name}").into())),
                _ => Err(damaged()),
            },
            b'Q' => {
                let value = self.pop()?;
                let storage = self.storage(&value)?;
                self.push(Value::Storage(storage.into()))
            }
            // The state of an ordered dictionary is that of PyTorch's modules: it says nothing of tensors.
            b'b' => match (self.pop()?, self.last()?) {
                (_, Value::Dict(_) | Value::Tensor(_)) => Ok(()),
                _ => unsupported("its pickle sets the state of an object"),
            },
            _ => {
                let (arguments, called) = (self.pop()?, self.pop()?);
                self.call(&called, &arguments)
            }
        }
    }

    fn arguments(&self, value: &Value) -> Result<&[Value], Refusal> {
        match value {
            Value::Tuple(number) => Ok(&self.tuples[*number]),
            _ => Err(damaged()),
        }
    }

    /// A storage, of the tuple that stands for one.
    fn storage(&self, value: &Value) -> Result<Storage, Refusal> {
        match self.arguments(value)? {
            [Value::Text(kind), Value::Global(class), Value::Text(key), _, Value::Int(elements), ..]
                if &**kind == "storage" =>
            {
                let elements = usize::try_from(*elements).map_err(|_| damaged())?;
                let class = class.rsplit('.').next().unwrap_or_default().into();
                Ok(Storage { class, key: key.clone(), elements })
            }
            _ => unsupported("its pickle names a storage in an unknown way"),
        }
    }

    /// Calls what makes dictionaries and tensors.
    fn call(&mut self, called: &Value, arguments: &Value) -> Result<(), Refusal> {
        let Value::Global(name) = called else { return Err(damaged()) };
        match (&**name, self.arguments(arguments)?) {
            ("collections.OrderedDict", []) => self.dict(),
            ("torch._utils._rebuild_parameter", [Value::Tensor(view), ..]) => {
                let view = view.clone();
                self.push(Value::Tensor(view))
            }
            ("torch._utils._rebuild_tensor_v2", [Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let offset = usize::try_from(*offset).map_err(|_| damaged())?;
                let (storage, shape, strides) = (storage.clone(), self.sizes(shape)?, self.sizes(strides)?);
                self.push(Value::Tensor(Rc::new(View { storage, offset, shape, strides })))
            }
            _ => unsupported(format!(
                "its pickle calls `{name}`, and nothing is called here; save only a dictionary of tensors: `model.state_dict()`"
            )),
        }
    }

    fn sizes(&self, value: &Value) -> Result<Vec<usize>, Refusal> {
        let size = |value: &Value| match value {
            Value::Int(size) => usize::try_from(*size).map_err(|_| damaged()),
            _ => Err(damaged()),
        };
        self.arguments(value)?.iter().map(size).collect()
    }
}

fn damaged() -> Refusal {
    "its pickle is damaged".into()
}
