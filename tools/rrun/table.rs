//! Tables as Docker prints them.

/// Cells are at least this wide.
const CELL_MIN: usize = 10;
/// Spaces after the widest cell of a column.
const PADDING: usize = 3;

/// Columns from two-dimensional text: every column but the last is padded.
///
/// Source: Go `text/tabwriter` with minimum width 10, padding 3, as docker/cli uses it.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let widest = rows
                .iter()
                // A row's last cell is not terminated, so it does not shape its column.
                .filter(|row| row.len() > column + 1)
                .map(|row| row[column].chars().count() + PADDING)
                .max()
                .unwrap_or(0);
            widest.max(CELL_MIN)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                let used = cell.chars().count();
                out.extend(std::iter::repeat_n(
                    ' ',
                    widths[column].saturating_sub(used),
                ));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_like_tabwriter() {
        let rows = [
            vec!["REPOSITORY".to_owned(), "TAG".to_owned(), "SIZE".to_owned()],
            vec!["a".to_owned(), "latest".to_owned(), "1kB".to_owned()],
        ];
        assert_eq!(
            columns(&rows),
            "REPOSITORY   TAG       SIZE\na            latest    1kB\n"
        );
        assert_eq!(columns(&[]), "");
    }
}
