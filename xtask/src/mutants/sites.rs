//! Where a source file can be mutated, and the text that makes all its mutations switchable in one build.
//!
//! The one law: **with no mutant chosen the rewritten file means what the original meant.** Text is only inserted
//! around what is there (an operator gives way to a comma), nothing is evaluated twice, and what was evaluated lazily
//! stays so.

use std::ops::Range;

use proc_macro2::Span;
use sha2::{Digest as _, Sha256};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Block, Expr, Lit, Pat, ReturnType, Signature, Stmt, Type, UnOp};

use crate::repository::Outcome;

/// One change to one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutation {
    pub(crate) line: usize,
    /// The function that it is in.
    pub(crate) function: String,
    /// What becomes what, as a person reads it.
    pub(crate) what: String,
    /// It is of a kind that promises nothing, so that nobody has to notice it.
    pub(crate) idle: bool,
}

/// A place with all that may be done there: its mutations, and how to write the switch between them.
#[derive(Debug)]
struct Site {
    mutations: Vec<Mutation>,
    form: Form,
}

/// How a switch is written; the text is that of the original.
#[derive(Debug)]
enum Form {
    /// `left OP right`, both taken by reference, for each of some operators.
    Compared { left: Range<usize>, right: Range<usize>, was: &'static str, becomes: Vec<&'static str> },
    /// The same with values.
    Computed { left: Range<usize>, right: Range<usize>, was: &'static str, becomes: &'static str },
    /// `left && right` (or `||`): one becomes the other.
    Joined { left: Range<usize>, right: Range<usize>, and: bool },
    /// `left.max(right)` (or `min`).
    Bounded { left: Range<usize>, right: Range<usize>, whole: Range<usize>, max: bool },
    /// Text around an expression; `#` stands for the mutant.
    Wrapped { whole: Range<usize>, before: &'static str, after: &'static str },
    /// Text at one place; `#` stands for the mutant.
    Inserted { at: usize, text: String },
}

/// A file with its sites.
#[derive(Debug)]
pub(crate) struct Source {
    text: String,
    sites: Vec<Site>,
}

/// A file as it is built, and which bytes of it belong to which site.
#[derive(Debug)]
pub(crate) struct Rewritten {
    pub(crate) text: String,
    wrappers: Vec<(Range<usize>, usize)>,
}

impl Source {
    pub(crate) fn parse(text: String) -> Outcome<Self> {
        let file = syn::parse_file(&text)?;
        let mut finder = Finder { text: &text, function: String::new(), idle: false, sites: Vec::new() };
        finder.visit_file(&file);
        let sites = finder.sites;
        Ok(Self { text, sites })
    }

    /// Stands for the text.
    pub(crate) fn digest(&self) -> String {
        Sha256::digest(&self.text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How many mutations each site has.
    pub(crate) fn mutations(&self) -> impl Iterator<Item = &[Mutation]> {
        self.sites.iter().map(|site| site.mutations.as_slice())
    }

    /// Writes the switches of the sites that have a number; a site's mutants are numbered from there on.
    pub(crate) fn rewrite(&self, numbers: &[Option<u32>]) -> Rewritten {
        let mut edits = Vec::new();
        for (index, (site, number)) in self.sites.iter().zip(numbers).enumerate() {
            if let Some(number) = number {
                site.form.edit(index, *number, &mut edits);
            }
        }
        // Closing text comes first (the innermost before the others), then operators, then opening text.
        edits.sort_by_key(|edit| match edit.kind {
            Kind::Close => (edit.place.start, 0, usize::MAX - edit.site),
            Kind::Operator => (edit.place.start, 1, edit.site),
            Kind::Insert => (edit.place.start, 2, edit.site),
            Kind::Open => (edit.place.start, 3, edit.site),
        });
        let mut out = Rewritten { text: String::new(), wrappers: Vec::new() };
        let mut opened = vec![0; self.sites.len()];
        let mut copied = 0;
        for edit in &edits {
            out.text.push_str(&self.text[copied..edit.place.start]);
            copied = edit.place.end;
            if matches!(edit.kind, Kind::Open | Kind::Insert) {
                opened[edit.site] = out.text.len();
            }
            out.text.push_str(&edit.text);
            if matches!(edit.kind, Kind::Close | Kind::Insert) {
                out.wrappers.push((opened[edit.site]..out.text.len(), edit.site));
            }
        }
        out.text.push_str(&self.text[copied..]);
        out
    }
}

impl Rewritten {
    /// The innermost site around a byte.
    pub(crate) fn site_at(&self, byte: usize) -> Option<usize> {
        let around = self.wrappers.iter().filter(|(bytes, _)| bytes.contains(&byte));
        around.min_by_key(|(bytes, _)| bytes.len()).map(|(_, site)| *site)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    Operator,
    Insert,
    Close,
}

#[derive(Debug)]
struct Edit {
    site: usize,
    kind: Kind,
    place: Range<usize>,
    text: String,
}

impl Form {
    fn edit(&self, site: usize, number: u32, edits: &mut Vec<Edit>) {
        let mut around = |whole: Range<usize>, middle: Option<(Range<usize>, &str)>, before, after| {
            edits.push(Edit { site, kind: Kind::Open, place: whole.start..whole.start, text: before });
            if let Some((place, text)) = middle {
                edits.push(Edit { site, kind: Kind::Operator, place, text: text.to_owned() });
            }
            edits.push(Edit { site, kind: Kind::Close, place: whole.end..whole.end, text: after });
        };
        let is = |number: u32| format!("crate::mutant::is({number})");
        match self {
            Self::Compared { left, right, was, becomes } => {
                let arms = (number..).zip(becomes).map(|(number, op)| format!("{number} => l {op} r, "));
                let arms: String = arms.collect();
                let after = format!(
                    ")) {{ (l, r) => match crate::mutant::active({number}) {{ {arms}_ => l {was} r }} }})"
                );
                let middle = Some((left.end..right.start, "), &("));
                around(left.start..right.end, middle, "(match (&(".to_owned(), after);
            }
            Self::Computed { left, right, was, becomes } => {
                let after =
                    format!(")) {{ (l, r) => if {} {{ l {becomes} r }} else {{ l {was} r }} }})", is(number));
                let middle = Some((left.end..right.start, "), ("));
                around(left.start..right.end, middle, "(match ((".to_owned(), after);
            }
            Self::Joined { left, right, and } => {
                let (same, otherwise) = if *and { ("!=", "") } else { ("==", "!") };
                let middle = format!(") {same} {} {{ ", is(number));
                let after = format!(" }} else {{ {otherwise}{} }})", is(number));
                let middle = Some((left.end..right.start, middle.as_str()));
                around(left.start..right.end, middle, "(if (".to_owned(), after);
            }
            Self::Bounded { left, right, whole, max } => {
                let (was, becomes) = if *max { ("max", "min") } else { ("min", "max") };
                let close = format!("{} {{ l.{becomes}(r) }} else {{ l.{was}(r) }} }})", is(number));
                let middle = Some((left.end..right.start, "), ("));
                around(
                    left.start..right.end,
                    middle,
                    "(match ((".to_owned(),
                    format!(")) {{ (l, r) => if {close}"),
                );
                // The parenthesis of the call.
                let place = right.end..whole.end;
                edits.push(Edit { site, kind: Kind::Operator, place, text: String::new() });
            }
            Self::Wrapped { whole, before, after } => {
                let fill = |text: &str| text.replace('#', &number.to_string());
                around(whole.clone(), None, fill(before), fill(after));
            }
            Self::Inserted { at, text } => {
                let text = text.replace('#', &number.to_string());
                edits.push(Edit { site, kind: Kind::Insert, place: *at..*at, text });
            }
        }
    }
}

/// Walks through a file and notes what can be mutated.
struct Finder<'a> {
    text: &'a str,
    function: String,
    /// Inside of something that promises nothing.
    idle: bool,
    sites: Vec<Site>,
}

impl Finder<'_> {
    fn add(&mut self, span: Span, whats: Vec<String>, form: Form) {
        let (line, idle) = (span.start().line, self.idle);
        let mutations =
            whats.into_iter().map(|what| Mutation { line, function: self.function.clone(), what, idle });
        self.sites.push(Site { mutations: mutations.collect(), form });
    }

    /// Source text on one line, not too much of it.
    fn quote(&self, bytes: Range<usize>) -> String {
        let text = self.text[bytes].split_whitespace().collect::<Vec<_>>().join(" ");
        if text.chars().count() <= 90 {
            return text;
        }
        text.chars().take(87).chain("...".chars()).collect()
    }

    /// A condition that is nothing more telling than a call or a field: it is negated.
    fn condition(&mut self, expr: &Expr) {
        match expr {
            Expr::Let(_) | Expr::Binary(_) | Expr::Unary(_) | Expr::Macro(_) | Expr::Lit(_) => {}
            Expr::Paren(inner) => self.condition(&inner.expr),
            _ => {
                let whole = expr.span().byte_range();
                let what = format!("`{}` is negated", self.quote(whole.clone()));
                let form = Form::Wrapped { whole, before: "(crate::mutant::is(#) != (", after: "))" };
                self.add(expr.span(), vec![what], form);
            }
        }
    }

    fn binary(&mut self, whole: &syn::ExprBinary) {
        let (left, right) = (whole.left.span().byte_range(), whole.right.span().byte_range());
        let becomes: (&str, Vec<&str>) = match whole.op {
            BinOp::Eq(_) => ("==", vec!["!="]),
            BinOp::Ne(_) => ("!=", vec!["=="]),
            BinOp::Lt(_) => ("<", vec!["<=", ">"]),
            BinOp::Le(_) => ("<=", vec!["<", ">"]),
            BinOp::Gt(_) => (">", vec![">=", "<"]),
            BinOp::Ge(_) => (">=", vec![">", "<"]),
            BinOp::And(_) => ("&&", vec!["||"]),
            BinOp::Or(_) => ("||", vec!["&&"]),
            BinOp::Add(_) => ("+", vec!["-"]),
            BinOp::Sub(_) => ("-", vec!["+"]),
            BinOp::Mul(_) => ("*", vec!["/"]),
            BinOp::Div(_) => ("/", vec!["*"]),
            BinOp::Rem(_) => ("%", vec!["/"]),
            _ => return,
        };
        let (was, becomes) = becomes;
        let logical = matches!(whole.op, BinOp::And(_) | BinOp::Or(_));
        let chained = has_let(&whole.left) || has_let(&whole.right);
        let quoted = self.quote(left.start..right.end);
        let whats = becomes.iter().map(|op| format!("`{was}` becomes `{op}` in `{quoted}`")).collect();
        let form = match whole.op {
            BinOp::And(_) => Form::Joined { left, right, and: true },
            BinOp::Or(_) => Form::Joined { left, right, and: false },
            _ if is_comparison(&whole.op) => Form::Compared { left, right, was, becomes },
            _ => Form::Computed { left, right, was, becomes: becomes[0] },
        };
        if !chained {
            self.add(whole.op.span(), whats, form);
        }
        if logical {
            self.condition(&whole.left);
            self.condition(&whole.right);
        }
    }

    fn method(&mut self, call: &syn::ExprMethodCall) {
        let max = call.method == "max";
        let Some(argument) = call.args.first().filter(|_| call.args.len() == 1) else { return };
        if !max && call.method != "min" {
            return;
        }
        let (left, right) = (call.receiver.span().byte_range(), argument.span().byte_range());
        let whole = call.span().byte_range();
        let what = format!("`max` and `min` are swapped in `{}`", self.quote(whole.clone()));
        self.add(call.method.span(), vec![what], Form::Bounded { left, right, whole, max });
    }

    /// A function that does nothing and returns the least that it can.
    fn body(&mut self, signature: &Signature, block: &Block) {
        let at = block.brace_token.span.open().byte_range().end;
        for value in least(&signature.output) {
            let (what, text) = match value {
                "" => ("does nothing".to_owned(), "return;".to_owned()),
                value => (format!("returns `{value}`"), format!("return {value};")),
            };
            let text = format!(" if crate::mutant::is(#) {{ {text} }}");
            self.add(
                signature.ident.span(),
                vec![format!("the function {what}")],
                Form::Inserted { at, text },
            );
        }
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        // A constant function can't read which mutant is chosen.
        if signature.constness.is_some() || counts(&signature.ident) {
            return;
        }
        let outer = std::mem::replace(&mut self.function, signature.ident.to_string());
        let idle = self.idle;
        self.idle |= tells(&signature.output);
        self.body(signature, block);
        self.visit_block(block);
        (self.function, self.idle) = (outer, idle);
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let derived = item.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
        if !derived.is_some_and(|name| name.ident == "Debug" || name.ident == "Display") {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if !item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if let Stmt::Expr(expr, Some(_)) = stmt {
            let deletable = match expr {
                Expr::MethodCall(call) => !counts(&call.method),
                Expr::Call(_) | Expr::Assign(_) => true,
                Expr::Binary(binary) => is_compound(&binary.op),
                _ => false,
            };
            if deletable {
                let whole = stmt.span().byte_range();
                let what = format!("`{}` is deleted", self.quote(whole.clone()));
                let form = Form::Wrapped { whole, before: "if !crate::mutant::is(#) { ", after: " }" };
                self.add(stmt.span(), vec![what], form);
            }
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_expr_if(&mut self, expr: &'a syn::ExprIf) {
        let idle = self.idle;
        self.idle |= expr.else_branch.is_none() && only_counts(&expr.then_branch);
        self.condition(&expr.cond);
        visit::visit_expr_if(self, expr);
        self.idle = idle;
    }

    fn visit_expr_while(&mut self, expr: &'a syn::ExprWhile) {
        self.condition(&expr.cond);
        visit::visit_expr_while(self, expr);
    }

    fn visit_expr_binary(&mut self, expr: &'a syn::ExprBinary) {
        self.binary(expr);
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'a syn::ExprUnary) {
        if matches!(expr.op, UnOp::Not(_)) {
            let whole = expr.span().byte_range();
            let what = format!("`!` is dropped from `{}`", self.quote(whole.clone()));
            let form = Form::Wrapped { whole, before: "(crate::mutant::is(#) != (", after: "))" };
            self.add(expr.span(), vec![what], form);
        }
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        let idle = self.idle;
        self.idle |= is_hint(&call.func);
        visit::visit_expr_call(self, call);
        self.idle = idle;
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        let idle = self.idle;
        self.idle |= counts(&call.method);
        self.method(call);
        visit::visit_expr_method_call(self, call);
        self.idle = idle;
    }

    fn visit_expr_lit(&mut self, expr: &'a syn::ExprLit) {
        if let Lit::Int(literal) = &expr.lit {
            let whole = expr.span().byte_range();
            let what =
                format!("`{literal}` becomes one more in `{}`", self.quote(line_of(self.text, &whole)));
            let form = Form::Wrapped { whole, before: "crate::mutant::literal(#, ", after: ")" };
            self.add(expr.span(), vec![what], form);
        }
    }

    fn visit_expr_match(&mut self, expr: &'a syn::ExprMatch) {
        let all = expr.arms.iter().any(|arm| matches!(arm.pat, Pat::Wild(_)) && arm.guard.is_none());
        for arm in expr.arms.iter().filter(|arm| all && !matches!(arm.pat, Pat::Wild(_))) {
            let quoted = self.quote(arm.pat.span().byte_range());
            let what = vec![format!("the arm `{quoted}` is deleted")];
            if let Some((_, guard)) = &arm.guard {
                let whole = guard.span().byte_range();
                let form = Form::Wrapped { whole, before: "!crate::mutant::is(#) && (", after: ")" };
                self.add(arm.pat.span(), what, form);
            } else {
                let text = " if !crate::mutant::is(#)".to_owned();
                self.add(arm.pat.span(), what, Form::Inserted { at: arm.pat.span().byte_range().end, text });
            }
        }
        for arm in &expr.arms {
            if let Some((_, guard)) = &arm.guard {
                self.condition(guard);
            }
        }
        visit::visit_expr_match(self, expr);
    }

    fn visit_expr_repeat(&mut self, expr: &'a syn::ExprRepeat) {
        // The length is a constant.
        self.visit_expr(&expr.expr);
    }

    fn visit_attribute(&mut self, _: &'a syn::Attribute) {}
    fn visit_generic_argument(&mut self, _: &'a syn::GenericArgument) {}
    fn visit_item_const(&mut self, _: &'a syn::ItemConst) {}
    fn visit_item_enum(&mut self, _: &'a syn::ItemEnum) {}
    fn visit_item_static(&mut self, _: &'a syn::ItemStatic) {}
    fn visit_pat(&mut self, _: &'a Pat) {}
    fn visit_type(&mut self, _: &'a Type) {}
}

/// The line around some bytes, for a person to know them by.
fn line_of(text: &str, bytes: &Range<usize>) -> Range<usize> {
    let start = text[..bytes.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[bytes.end..].find('\n').map_or(text.len(), |at| bytes.end + at);
    start..end
}

/// The least values of a type that a function may return; the empty text stands for no value.
fn least(output: &ReturnType) -> Vec<&'static str> {
    let ReturnType::Type(_, of) = output else { return vec![""] };
    let Type::Path(path) = of.as_ref() else { return Vec::new() };
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    match last.ident.to_string().as_str() {
        "bool" => vec!["true", "false"],
        "Option" => vec!["None"],
        "Vec" => vec!["alloc::vec::Vec::new()"],
        "u8" | "u16" | "u32" | "u64" | "usize" => vec!["0", "1"],
        "Result" => vec!["Ok(Default::default())"],
        _ => Vec::new(),
    }
}

/// Counters of what was ignored and of the branches that were met: nothing that a replica does depends on them.
fn counts(name: &syn::Ident) -> bool {
    name == "ignore" || name == "mark" || name == "mark_rows"
}

/// Whether a block counts and does nothing else: on which condition it does decides nothing.
fn only_counts(block: &Block) -> bool {
    let counting =
        |stmt: &Stmt| matches!(stmt, Stmt::Expr(Expr::MethodCall(call), _) if counts(&call.method));
    !block.stmts.is_empty() && block.stmts.iter().all(counting)
}

/// Whether a function makes words for people: they promise nothing.
fn tells(output: &ReturnType) -> bool {
    let ReturnType::Type(_, of) = output else { return false };
    matches!(of.as_ref(), Type::Path(path) if path.path.is_ident("String"))
}

/// Room that is taken beforehand, or the length of a time: neither has a value that is the right one.
fn is_hint(function: &Expr) -> bool {
    let Expr::Path(path) = function else { return false };
    let names: Vec<String> = path.path.segments.iter().map(|name| name.ident.to_string()).collect();
    let Some((last, before)) = names.split_last() else { return false };
    last == "with_capacity" || (last.starts_with("from_") && before.last().is_some_and(|of| of == "Duration"))
}

fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

fn is_comparison(op: &BinOp) -> bool {
    matches!(op, BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_))
}

fn is_compound(op: &BinOp) -> bool {
    use BinOp::*;
    matches!(op, AddAssign(_) | SubAssign(_) | MulAssign(_) | DivAssign(_) | BitAndAssign(_) | BitOrAssign(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> String {
        let source = Source::parse(text.to_owned()).unwrap();
        let mut next = 0;
        let mut number = |mutations: &[Mutation]| {
            next += u32::try_from(mutations.len()).unwrap();
            Some(next - u32::try_from(mutations.len()).unwrap())
        };
        let numbers: Vec<_> = source.mutations().map(&mut number).collect();
        let text = source.rewrite(&numbers).text;
        syn::parse_file(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn operators_become_switches_and_nothing_is_evaluated_twice() {
        let text = rewritten("fn f(a: u8) -> Digest { g(a < h()) }");
        assert!(text.contains("(match (&(a), &(h())) { (l, r) => match crate::mutant::active(0) { 0 => l <= r, 1 => l > r, _ => l < r } })"), "{text}");
        let text = rewritten("fn f() -> Digest { g(x.a == 1 && b) }");
        assert!(
            text.contains(
                "!= crate::mutant::is(0) { (crate::mutant::is(1) != (b)) } else { crate::mutant::is(0) })"
            ),
            "{text}"
        );
        let text = rewritten("fn f() -> Digest { g(a.max(b)) }");
        assert!(
            text.contains(
                "(match ((a), (b)) { (l, r) => if crate::mutant::is(0) { l.min(r) } else { l.max(r) } })"
            ),
            "{text}"
        );
    }

    #[test]
    fn what_nests_stays_well_formed() {
        rewritten(
            "fn f(&mut self) -> bool { if let Some(x) = y && !x.a() && x.b == 1 { self.c(x + 1 - 2); } a || b && c }",
        );
        rewritten(
            "fn f() { match x { A if g(1) > 2 => b(), C => d(), _ => {} } while e() { z += [1, 2][0]; } }",
        );
        rewritten("fn f() -> u64 { (1..=a.max(b + 1).min(3)).filter(|x| x % 2 == 0).count() as u64 - 1 }");
    }

    #[test]
    fn what_promises_nothing_is_idle() {
        let text = "fn f() -> String { g(1) } fn h() -> D { Vec::with_capacity(2 * n); Duration::from_millis(3); i(4) }";
        let source = Source::parse(text.to_owned()).unwrap();
        let all: Vec<&Mutation> = source.mutations().flatten().collect();
        let earnest: Vec<&str> =
            all.iter().filter(|mutation| !mutation.idle).map(|mutation| mutation.what.as_str()).collect();
        assert_eq!(all.len(), 7, "{all:?}");
        assert_eq!(earnest.len(), 3, "two calls that can be deleted, and a literal: {earnest:?}");
        assert!(earnest.iter().any(|what| what.starts_with("`4` becomes one more")));
        let text =
            "fn f(&self) -> D { if a < b { self.mark(X); } if c { self.mark(X); g(); } self.ignore(d < e); }";
        let source = Source::parse(text.to_owned()).unwrap();
        let idle: Vec<&str> = source
            .mutations()
            .flatten()
            .filter(|mutation| mutation.idle)
            .map(|mutation| mutation.what.as_str())
            .collect();
        let compared = |text: &str| ["<=", ">"].map(|op| format!("`<` becomes `{op}` in `{text}`"));
        assert_eq!(idle, [compared("a < b"), compared("d < e")].concat());
    }

    #[test]
    fn constants_types_and_patterns_are_left_alone() {
        let text =
            "const A: u8 = 1 + 2; const fn f() -> u8 { 3 } fn g(x: [u8; 4]) -> D { match x { 5 => [y; 6] } }";
        assert_eq!(rewritten(text), text);
    }
}
