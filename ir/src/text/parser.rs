//! Parsing; every error names its line and column.
use super::lexer::{Lexer, Token};
use crate::{
    DType, Graph, IrError, Layout, NodeId, Operator, Port, QParams, Result, Shape, Tensor, TensorType,
    attr::{Attr, AttrValue},
};
use std::collections::BTreeMap;

/// Deepest nesting of attributes; the operators need 4.
const MAX_DEPTH: usize = 16;

/// The graph of a text. It is well formed, but only [`crate::verify`] tells whether it is valid.
///
/// # Errors
/// The text does not follow the grammar in the documentation of this module, is of the other kind, defines a name
/// twice, or uses one that is not defined before.
pub fn parse<O: Operator>(text: &str) -> Result<Graph<O>> {
    let mut p = Parser { lexer: Lexer::new(text) };
    p.word("gir")?;
    match p.lexer.next()? {
        Token::Int(super::VERSION) => {}
        t => {
            return Err(p.lexer.error(format!(
                "format version {} expected, got {}",
                super::VERSION,
                t.describe()
            )));
        }
    }
    match p.lexer.next()? {
        Token::Word(w) if w == O::KIND => {}
        t => {
            return Err(p.lexer.error(format!("a graph of kind {} expected, got {}", O::KIND, t.describe())));
        }
    }
    let mut graph = Graph::new(p.text()?);
    let mut nodes: BTreeMap<String, NodeId> = BTreeMap::new();
    // Ports stand before or after their nodes: (is an output, port name, node name, layout, position).
    let mut ports = Vec::new();
    loop {
        match p.lexer.next()? {
            Token::End => break,
            Token::Word(w) if w == "input" || w == "output" => {
                let name = p.text()?;
                p.punct('=')?;
                let node = p.name()?;
                let position = p.lexer.position();
                ports.push((w == "output", name, node, p.layout()?, position));
            }
            Token::Name(name) => {
                if nodes.contains_key(&name) {
                    return Err(p.lexer.error(format!("%{name} is defined twice")));
                }
                let id = p.node(&mut graph, &nodes, &name)?;
                nodes.insert(name, id);
            }
            t => {
                return Err(p.lexer.error(format!("expected a node, input or output, got {}", t.describe())));
            }
        }
    }
    for (output, name, node, layout, position) in ports {
        let Some(node) = nodes.get(&node).copied() else {
            return Err(p.lexer.located_at(IrError::new(format!("%{node} is not defined")), position));
        };
        let port = Port { name, node, layout };
        if output { graph.outputs.push(port) } else { graph.inputs.push(port) }
    }
    Ok(graph)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
}

impl Parser<'_> {
    /// What follows a node's name.
    fn node<O: Operator>(
        &mut self,
        graph: &mut Graph<O>,
        nodes: &BTreeMap<String, NodeId>,
        name: &str,
    ) -> Result<NodeId> {
        self.punct(':')?;
        let ty = self.ty()?;
        self.punct('=')?;
        let Token::Word(op) = self.lexer.next()? else {
            return Err(self.lexer.error("expected an operator"));
        };
        let position = self.lexer.position();
        let mut operands = Vec::new();
        let op = match op.as_str() {
            "input" => O::input(),
            "const" => {
                let value = self.constant(&ty).map_err(|e| self.lexer.located_at(e, position))?;
                O::constant(value)
            }
            _ => {
                self.punct('(')?;
                self.separated(')', &mut |p| {
                    let name = p.name()?;
                    match nodes.get(&name) {
                        Some(id) => operands.push(*id),
                        None => return Err(p.lexer.error(format!("%{name} is not defined before"))),
                    }
                    Ok(())
                })?;
                let mut attrs = Vec::new();
                if *self.lexer.peek()? == Token::Punct('{') {
                    self.lexer.next()?;
                    self.separated('}', &mut |p| {
                        let Token::Word(name) = p.lexer.next()? else {
                            return Err(p.lexer.error("expected the name of an attribute"));
                        };
                        p.punct('=')?;
                        attrs.push((name, p.attr(0)?));
                        Ok(())
                    })?;
                }
                O::from_attrs(&op, &attrs).map_err(|e| self.lexer.located_at(e, position))?
            }
        };
        Ok(graph.add(name, op, &operands, ty))
    }

    fn ty(&mut self) -> Result<TensorType> {
        let Token::Word(dtype) = self.lexer.next()? else {
            return Err(self.lexer.error("expected an element type"));
        };
        let Some(dtype) = DType::from_name(&dtype) else {
            return Err(self.lexer.error(format!("unknown element type {dtype}")));
        };
        let dims = self.attr(0)?;
        let shape = Vec::<usize>::from_attr(&dims).and_then(Shape::new).map_err(|e| self.lexer.located(e))?;
        let mut quant = None;
        if matches!(self.lexer.peek()?, Token::Word(w) if w == "q") {
            let q = self.attr(0)?;
            quant = Some(QParams::from_attr(&q).map_err(|e| self.lexer.located(e))?);
        }
        Ok(TensorType { dtype, shape, quant })
    }

    fn constant(&mut self, ty: &TensorType) -> Result<Tensor> {
        match self.lexer.next()? {
            Token::Word(w) if w == "hex" => {
                self.punct('(')?;
                let bytes = self.lexer.hex_block()?;
                let tensor = Tensor::from_bytes(ty.dtype, ty.shape.clone(), &bytes)?;
                // Bytes of an odd packed tensor have a spare nibble.
                if ty.dtype.bits() == 4 && ty.shape.count() % 2 == 1 && bytes.last().is_some_and(|b| *b > 15)
                {
                    return Err(self.lexer.error("the spare nibble of a packed constant must be 0"));
                }
                Ok(tensor)
            }
            Token::Punct('[') => {
                let (mut ints, mut floats) = (Vec::new(), Vec::new());
                self.separated(']', &mut |p| {
                    match p.lexer.next()? {
                        Token::Float(v) if ty.dtype == DType::F32 => floats.push(v),
                        Token::Int(v) if ty.dtype.is_integer() => ints.push(
                            i32::try_from(v)
                                .map_err(|_| p.lexer.error(format!("{v} does not fit in i32")))?,
                        ),
                        t => {
                            let message =
                                format!("expected a value of type {}, got {}", ty.dtype, t.describe());
                            return Err(p.lexer.error(message));
                        }
                    }
                    Ok(())
                })?;
                match ty.dtype {
                    DType::F32 => Tensor::from_f32(ty.shape.clone(), floats),
                    DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::I4 | DType::U4 => {
                        Tensor::from_ints(ty.dtype, ty.shape.clone(), &ints)
                    }
                }
            }
            t => Err(self.lexer.error(format!("expected a list or hex(…), got {}", t.describe()))),
        }
    }

    fn attr(&mut self, depth: usize) -> Result<Attr> {
        if depth > MAX_DEPTH {
            return Err(self.lexer.error(format!("attributes are nested more than {MAX_DEPTH} deep")));
        }
        let list = |p: &mut Self, end: char| {
            let mut items = Vec::new();
            p.separated(end, &mut |p| {
                items.push(p.attr(depth + 1)?);
                Ok(())
            })?;
            Ok::<_, IrError>(items)
        };
        match self.lexer.next()? {
            Token::Int(v) => Ok(Attr::Int(v)),
            Token::Float(v) => Ok(Attr::Float(v)),
            Token::Punct('[') => Ok(Attr::List(list(self, ']')?)),
            Token::Word(w) => {
                if *self.lexer.peek()? == Token::Punct('(') {
                    self.lexer.next()?;
                    return Ok(Attr::Call(w, list(self, ')')?));
                }
                Ok(Attr::Word(w))
            }
            t => Err(self.lexer.error(format!("expected a value, got {}", t.describe()))),
        }
    }

    /// Comma-separated items up to `end`; the opening bracket is already taken.
    fn separated(&mut self, end: char, item: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if *self.lexer.peek()? == Token::Punct(end) {
            self.lexer.next()?;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.lexer.next()? {
                Token::Punct(',') => {}
                Token::Punct(c) if c == end => return Ok(()),
                t => return Err(self.lexer.error(format!("expected ',' or '{end}', got {}", t.describe()))),
            }
        }
    }

    fn punct(&mut self, c: char) -> Result<()> {
        match self.lexer.next()? {
            Token::Punct(p) if p == c => Ok(()),
            t => Err(self.lexer.error(format!("expected '{c}', got {}", t.describe()))),
        }
    }

    fn word(&mut self, word: &str) -> Result<()> {
        match self.lexer.next()? {
            Token::Word(w) if w == word => Ok(()),
            t => Err(self.lexer.error(format!("expected {word}, got {}", t.describe()))),
        }
    }

    fn name(&mut self) -> Result<String> {
        match self.lexer.next()? {
            Token::Name(n) => Ok(n),
            t => Err(self.lexer.error(format!("expected a name such as %x, got {}", t.describe()))),
        }
    }

    fn text(&mut self) -> Result<String> {
        match self.lexer.next()? {
            Token::Text(t) => Ok(t),
            t => Err(self.lexer.error(format!("expected text in quotes, got {}", t.describe()))),
        }
    }

    fn layout(&mut self) -> Result<Layout> {
        match self.lexer.next()? {
            Token::Word(w) if w == "same" => Ok(Layout::Same),
            Token::Word(w) if w == "nchw" => Ok(Layout::Nchw),
            t => Err(self.lexer.error(format!("expected same or nchw, got {}", t.describe()))),
        }
    }
}
