//! What the parser makes of PTX text: the module as it is written, names of registers resolved.
//!
//! Everything borrows from the text. Opcodes stay strings here: which of them the machine knows, and
//! what their modifiers mean, is decided by `machine/`, one file per family of instructions.

/// A whole PTX text.
#[derive(Debug, Clone, Default)]
pub struct Module<'a> {
    /// `.version 8.1` is (8, 1).
    pub version: (u32, u32),
    /// The first word after `.target`: `sm_80`.
    pub target: &'a str,
    /// `.file 1 "path"`: what `Location::file` counts.
    pub files: Vec<(u32, &'a str)>,
    /// Variables of module scope: `.global`, `.const`, `.shared` (static, or extern with no size).
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<Function<'a>>,
}

/// The state spaces of the PTX manual, chapter 5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    Const,
    Global,
    Local,
    Param,
    Shared,
    /// No space given: the address says it.
    Generic,
}

/// The fundamental types, with the predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    E4M3x2,
    E5M2x2,
    F32,
    F64,
}

impl Type {
    /// The type that a modifier names: `u32`, without the dot.
    pub fn from_name(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::BF16,
            "bf16x2" => Type::BF16x2,
            "tf32" => Type::TF32,
            "e4m3x2" => Type::E4M3x2,
            "e5m2x2" => Type::E5M2x2,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }

    /// Bytes in memory; 0 for a predicate.
    pub fn bytes(self) -> u32 {
        match self {
            Type::Pred => 0,
            Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::BF16 => 2,
            Type::E4M3x2 | Type::E5M2x2 => 2,
            Type::B32
            | Type::U32
            | Type::S32
            | Type::F32
            | Type::F16x2
            | Type::BF16x2
            | Type::TF32 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub fn is_float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | BF16 | BF16x2 | TF32 | E4M3x2 | E5M2x2 | F32 | F64)
    }
}

/// `.visible`, `.extern`, `.weak`, `.common`; none of them is `Internal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    #[default]
    Internal,
    Visible,
    Extern,
    Weak,
    Common,
}

/// A variable of any space but registers: of the module, of a function, or a parameter.
#[derive(Debug, Clone)]
pub struct Variable<'a> {
    /// As written. In a function's body the parser makes shadowing names unique (`name`, `name$1`).
    pub name: std::borrow::Cow<'a, str>,
    pub space: Space,
    /// The element's type.
    pub ty: Type,
    /// In bytes: as `.align` says, or the element's (times its vector length).
    pub align: u32,
    /// In bytes; `None` for `.extern .shared .b8 name[]`.
    pub size: Option<u64>,
    /// What it holds at first: empty for zeros. Shorter than `size` is filled with zeros.
    pub init: Vec<Initialiser<'a>>,
    pub linkage: Linkage,
    /// Line of the text, from 1.
    pub line: u32,
}

/// Bytes of an initialiser, or an address that is known once the module is loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum Initialiser<'a> {
    /// Little endian, as in memory.
    Bytes(Vec<u8>),
    /// `symbol+offset` or `generic(symbol)+offset`, 8 bytes.
    Address { symbol: &'a str, generic: bool, offset: i64 },
}

/// `.entry` or `.func`.
#[derive(Debug, Clone)]
pub struct Function<'a> {
    pub name: &'a str,
    pub entry: bool,
    /// `.func (.param .b32 retval0) name`.
    pub returns: Vec<Variable<'a>>,
    pub params: Vec<Variable<'a>>,
    /// `None` for a declaration.
    pub body: Option<Body<'a>>,
    pub linkage: Linkage,
    /// `.maxntid x, y, z`: what a launch may not exceed; missing numbers are 1.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid x, y, z`: what a launch must have.
    pub reqntid: Option<[u32; 3]>,
    /// Line of the text, from 1.
    pub line: u32,
}

/// What stands between a function's braces, scopes flattened.
#[derive(Debug, Clone, Default)]
pub struct Body<'a> {
    /// `Operand::Reg(i)` is `registers[i]`; `%r<100>` gives a hundred of them (unused ones too).
    pub registers: Vec<Register>,
    /// `.local`, `.shared`, `.global` and `.const` variables, and `.param` ones of call sequences.
    pub variables: Vec<Variable<'a>>,
    pub statements: Vec<Statement<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    pub name: String,
    pub ty: Type,
}

#[derive(Debug, Clone)]
pub enum Statement<'a> {
    /// Labels are unique within a body (the parser renames in scopes).
    Label(std::borrow::Cow<'a, str>),
    Instruction(Instruction<'a>),
    /// `name: .branchtargets a, b, c;`
    BranchTargets {
        name: std::borrow::Cow<'a, str>,
        labels: Vec<std::borrow::Cow<'a, str>>,
    },
    /// `name: .callprototype (rets) _ (params);`
    CallPrototype {
        name: std::borrow::Cow<'a, str>,
        returns: Vec<Variable<'a>>,
        params: Vec<Variable<'a>>,
    },
    /// `name: .calltargets f, g;`
    CallTargets {
        name: std::borrow::Cow<'a, str>,
        functions: Vec<&'a str>,
    },
}

/// `@!%p1 add.rn.f32 %f1, %f2, %f3;`
#[derive(Debug, Clone)]
pub struct Instruction<'a> {
    pub guard: Option<Guard>,
    /// `add`
    pub name: &'a str,
    /// `["rn", "f32"]`; a `::` stays inside its modifier (`["shared::cta"]`).
    pub modifiers: Vec<&'a str>,
    /// In the order written. For `call`: `[(returns) as List, function, (params) as List, prototype]`, where
    /// an absent list is an empty one and an absent prototype is left off.
    pub operands: Vec<Operand<'a>>,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// From the last `.loc` before it.
    pub location: Option<Location>,
}

/// `@%p` and `@!%p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    pub register: u32,
    pub negated: bool,
}

/// `.loc file line column`: where in the .cu the code comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// An index into `Body::registers`.
    Reg(u32),
    /// `!%p1` where an instruction takes a predicate.
    Not(u32),
    /// `%tid.x`, `%laneid`, `WARP_SZ`: as written.
    Special(&'a str),
    /// An integer constant, its bits as 64; negative ones sign-extended.
    Int(u64),
    /// `0f3F800000`: bits.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal: bits.
    F64(u64),
    /// A variable, function, label or target list by its (unique) name; `name+4` has the offset.
    Symbol { name: std::borrow::Cow<'a, str>, offset: i64 },
    /// `[%rd1+16]`, `[name+4]`, `[16]`.
    Address { base: Box<Operand<'a>>, offset: i64 },
    /// `{%r1, %r2}`
    Vector(Vec<Operand<'a>>),
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
    /// `%p1|%p2`, of setp and shfl.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `_`
    Sink,
}
