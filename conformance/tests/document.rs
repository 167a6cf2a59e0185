//! `CONFORMANCE.md` and the list of open statements say what is.

use culex_conformance::built_in;
use culex_conformance::statements::Evidence;
use std::fs;
use std::path::Path;

#[test]
fn the_document_is_up_to_date_and_no_statement_loses_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (document, open) = (root.join("CONFORMANCE.md"), root.join("tests/conformance/OPEN"));
    let evidence = Evidence::collect(&root, &built_in().unwrap()).unwrap();
    assert_eq!(
        evidence.unknown().collect::<Vec<_>>(),
        Vec::<&str>::new(),
        "no standard has these statements"
    );
    if std::env::var_os("UPDATE").is_some() {
        fs::write(open, evidence.open_list()).unwrap();
        fs::write(document, evidence.document()).unwrap();
        return;
    }
    assert_eq!(evidence.lost(), Vec::<String>::new(), "nothing shows these statements any more");
    let update = "run UPDATE=1 cargo test -p culex-conformance";
    assert_eq!(evidence.no_longer_open(), Vec::<String>::new(), "these are shown by now: {update}");
    assert!(
        fs::read_to_string(document).unwrap_or_default() == evidence.document(),
        "CONFORMANCE.md is stale: {update}"
    );
}
