//! Types that hold other types.

use std::convert::Infallible;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};

/// The fields that a type is made of: of a struct its own, of a list or map the one of its elements.
pub fn fields(data_type: &DataType) -> &[FieldRef] {
    use DataType::*;
    match data_type {
        Struct(fields) => fields,
        List(item)
        | LargeList(item)
        | ListView(item)
        | LargeListView(item)
        | FixedSizeList(item, _)
        | Map(item, _) => std::slice::from_ref(item),
        _ => &[],
    }
}

/// A type with other types in its [`fields`]. `f` is told a field's number and type.
///
/// # Errors
/// Those of `f`.
pub fn with_types<E>(
    data_type: &DataType,
    f: &mut dyn FnMut(usize, &DataType) -> Result<DataType, E>,
) -> Result<DataType, E> {
    use DataType::*;
    let mut at = |i: usize| {
        let field = &fields(data_type)[i];
        Ok(Arc::new(field.as_ref().clone().with_data_type(f(i, field.data_type())?)))
    };
    Ok(match data_type {
        Struct(fields) => Struct((0..fields.len()).map(at).collect::<Result<_, E>>()?),
        List(_) => List(at(0)?),
        LargeList(_) => LargeList(at(0)?),
        ListView(_) => ListView(at(0)?),
        LargeListView(_) => LargeListView(at(0)?),
        FixedSizeList(_, n) => FixedSizeList(at(0)?, *n),
        Map(_, sorted) => Map(at(0)?, *sorted),
        other => other.clone(),
    })
}

/// The type of the same values with text as plain bytes.
pub fn as_bytes(data_type: &DataType) -> DataType {
    use DataType::*;
    match data_type {
        Utf8 => Binary,
        LargeUtf8 => LargeBinary,
        Utf8View => BinaryView,
        Dictionary(key, value) => Dictionary(key.clone(), Box::new(as_bytes(value))),
        nested => {
            let Ok(bytes) = with_types::<Infallible>(nested, &mut |_, t| Ok(as_bytes(t)));
            bytes
        }
    }
}
