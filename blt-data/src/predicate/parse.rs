//! From text to a condition.

use super::bound::Number;
use super::expr::{Expr, Literal, Op, PredicateError, Test};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// As written; keywords are words.
    Word(String),
    Quoted(String),
    Literal(Literal),
    Op(Op),
    Open,
    Close,
    Comma,
}

/// Tokens, each with the place of its first character.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, PredicateError> {
    let chars: Vec<char> = text.chars().collect();
    let wrong = |at: usize, expected, found: String| PredicateError::Syntax {
        text: text.to_owned(),
        at: at + 1,
        expected,
        found,
    };
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let from = at;
        let c = chars[at];
        let two = chars.get(at + 1).copied();
        at += 1;
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '=' => {
                at += (two == Some('=')) as usize;
                Token::Op(Op::Eq)
            }
            '!' if two == Some('=') => {
                at += 1;
                Token::Op(Op::Ne)
            }
            '<' | '>' => {
                at += matches!((c, two), (_, Some('=')) | ('<', Some('>'))) as usize;
                Token::Op(match (c, two) {
                    ('<', Some('>')) => Op::Ne,
                    ('<', Some('=')) => Op::Le,
                    ('<', _) => Op::Lt,
                    (_, Some('=')) => Op::Ge,
                    _ => Op::Gt,
                })
            }
            '\'' | '"' | '`' => {
                let mut content = String::new();
                loop {
                    match chars.get(at) {
                        None => return Err(wrong(from, "a closing quote", "the end".into())),
                        Some(&q) if q == c && chars.get(at + 1) == Some(&c) => {
                            content.push(c);
                            at += 2;
                        }
                        Some(&q) if q == c => break,
                        Some(&other) => {
                            content.push(other);
                            at += 1;
                        }
                    }
                }
                at += 1;
                if c == '`' {
                    Token::Quoted(content)
                } else {
                    Token::Literal(Literal::Text(content))
                }
            }
            c if c.is_ascii_digit()
                || (matches!(c, '-' | '+' | '.')
                    && two.is_some_and(|d| d.is_ascii_digit() || d == '.')) =>
            {
                let part = |at: usize| {
                    let sign = matches!(chars[at], '-' | '+') && matches!(chars[at - 1], 'e' | 'E');
                    chars[at].is_ascii_alphanumeric() || chars[at] == '.' || sign
                };
                while at < chars.len() && part(at) {
                    at += 1;
                }
                let number: String = chars[from..at].iter().collect();
                let parsed = Number::parse(&number)
                    .ok_or_else(|| wrong(from, "a number", format!("`{number}`")))?;
                Token::Literal(Literal::Number(parsed))
            }
            c if c.is_alphabetic() || c == '_' => {
                while chars.get(at).is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.')) {
                    at += 1;
                }
                let word: String = chars[from..at].iter().collect();
                match word.to_lowercase().as_str() {
                    "true" => Token::Literal(Literal::Bool(true)),
                    "false" => Token::Literal(Literal::Bool(false)),
                    _ => Token::Word(word),
                }
            }
            other => {
                return Err(wrong(
                    from,
                    "a column, a literal or an operator",
                    format!("`{other}`"),
                ));
            }
        };
        tokens.push((from, token));
    }
    Ok(tokens)
}

const KEYWORDS: [&str; 8] = ["and", "or", "not", "in", "is", "null", "like", "between"];

/// Conditions nest by recursion, and a stack has an end.
const MAX_DEPTH: usize = 100;

pub(super) struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self, PredicateError> {
        Ok(Parser { text, tokens: tokens(text)?, at: 0, depth: 0 })
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += found as usize;
        found
    }

    fn keyword(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        self.at += found as usize;
        found
    }

    pub(super) fn wrong(&self, expected: &'static str) -> PredicateError {
        let from = self.tokens.get(self.at).map(|(from, _)| *from);
        let end = self.tokens.get(self.at + 1).map(|(from, _)| *from);
        let chars = self.text.chars();
        let found = from.map(|from| {
            let token: String =
                chars.clone().skip(from).take(end.map_or(usize::MAX, |end| end - from)).collect();
            format!("`{}`", token.trim_end())
        });
        PredicateError::Syntax {
            text: self.text.to_owned(),
            at: from.unwrap_or_else(|| chars.count()) + 1,
            expected,
            found: found.unwrap_or_else(|| "the end".into()),
        }
    }

    pub(super) fn any(&mut self) -> Result<Expr, PredicateError> {
        let mut of = vec![self.all()?];
        while self.keyword("or") {
            of.push(self.all()?);
        }
        Ok(if of.len() == 1 { of.remove(0) } else { Expr::Any(of) })
    }

    fn all(&mut self) -> Result<Expr, PredicateError> {
        let mut of = vec![self.negation()?];
        while self.keyword("and") {
            of.push(self.negation()?);
        }
        Ok(if of.len() == 1 { of.remove(0) } else { Expr::All(of) })
    }

    fn negation(&mut self) -> Result<Expr, PredicateError> {
        if self.depth == MAX_DEPTH {
            return Err(self.wrong("fewer `not`s and parentheses inside each other"));
        }
        self.depth += 1;
        let inner = if self.keyword("not") {
            self.negation()?.negated()
        } else if self.take(&Token::Open) {
            let inner = self.any()?;
            if !self.take(&Token::Close) {
                return Err(self.wrong("`and`, `or` or `)`"));
            }
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn column(&mut self) -> Option<String> {
        let name = match self.peek()? {
            Token::Quoted(name) => name.clone(),
            Token::Word(word) if !KEYWORDS.contains(&word.to_lowercase().as_str()) => word.clone(),
            _ => return None,
        };
        self.at += 1;
        Some(name)
    }

    fn literal(&mut self) -> Result<Literal, PredicateError> {
        match self.peek() {
            Some(Token::Literal(literal)) => {
                let literal = literal.clone();
                self.at += 1;
                Ok(literal)
            }
            _ => Err(self.wrong("a number, text in quotes, `true` or `false`")),
        }
    }

    fn op(&mut self) -> Option<Op> {
        let Some(Token::Op(op)) = self.peek() else { return None };
        let op = *op;
        self.at += 1;
        Some(op)
    }

    fn test(&mut self) -> Result<Expr, PredicateError> {
        let Some(column) = self.column() else {
            let Ok(literal) = self.literal() else {
                return Err(self.wrong("a column, a literal, `not` or `(`"));
            };
            let op = self.op().ok_or_else(|| self.wrong("a comparison such as `<`"))?;
            let column = self.column().ok_or_else(|| self.wrong("a column"))?;
            return Ok(Expr::Test(column, Test::Compare(op.flipped(), literal)));
        };
        if let Some(op) = self.op() {
            return Ok(Expr::Test(column, Test::Compare(op, self.literal()?)));
        }
        if self.keyword("is") {
            let is = !self.keyword("not");
            return match self.keyword("null") {
                true => Ok(Expr::Test(column, Test::Null(is))),
                false => Err(self.wrong("`null` or `not null`")),
            };
        }
        let not = self.keyword("not");
        if self.keyword("in") {
            if !self.take(&Token::Open) {
                return Err(self.wrong("`(` and a list of literals"));
            }
            let mut of = Vec::new();
            loop {
                of.push(Expr::Test(column.clone(), Test::Compare(Op::Eq, self.literal()?)));
                if self.take(&Token::Close) {
                    break;
                }
                if !self.take(&Token::Comma) {
                    return Err(self.wrong("`,` or `)`"));
                }
            }
            let any = Expr::Any(of);
            return Ok(if not { any.negated() } else { any });
        }
        if self.keyword("like") {
            return match self.literal() {
                Ok(Literal::Text(pattern)) => Ok(Expr::Test(column, Test::Like(!not, pattern))),
                _ => Err(self.wrong("a pattern in quotes")),
            };
        }
        if self.keyword("between") {
            let from = Expr::Test(column.clone(), Test::Compare(Op::Ge, self.literal()?));
            if !self.keyword("and") {
                return Err(self.wrong("`and` and the upper bound"));
            }
            let to = Expr::Test(column, Test::Compare(Op::Le, self.literal()?));
            let within = Expr::All(vec![from, to]);
            return Ok(if not { within.negated() } else { within });
        }
        if not {
            return Err(self.wrong("`in`, `like` or `between`"));
        }
        Ok(Expr::Test(column, Test::Compare(Op::Eq, Literal::Bool(true))))
    }
}
