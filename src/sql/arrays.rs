//! Lists that are written out: `[a, b]` as the call `make_array(a, b)`, which means the same. DataFusion's planner finds no
//! columns of the rows around in the one, and does in the other.

use std::ops::ControlFlow;

use datafusion_sql::parser::{CopyToSource, Statement};
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, VisitMut,
    VisitorMut,
};

/// `statement` with its lists as calls.
pub(super) fn as_calls(mut statement: Statement) -> Statement {
    change(&mut statement);
    statement
}

fn change(statement: &mut Statement) {
    // The visitor never breaks off.
    let _: ControlFlow<()> = match statement {
        Statement::Statement(statement) => statement.visit(&mut Calls),
        Statement::Explain(explain) => {
            change(&mut explain.statement);
            ControlFlow::Continue(())
        }
        Statement::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(&mut Calls),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    };
}

struct Calls;

impl VisitorMut for Calls {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Array(array) = expr {
            let elements = std::mem::take(&mut array.elem).into_iter();
            *expr = call("make_array", elements.map(|element| FunctionArg::Unnamed(FunctionArgExpr::Expr(element))));
        }
        ControlFlow::Continue(())
    }
}

fn call(name: &str, arguments: impl Iterator<Item = FunctionArg>) -> Expr {
    let list = FunctionArgumentList { duplicate_treatment: None, args: arguments.collect(), clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
