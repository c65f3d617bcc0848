//! What a cell of a template stands for: all of it, in order, or one draw.

use super::dice::Dice;

/// Parts of a cell, one after the other.
pub type Sequence = Vec<Node>;

/// A part of a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Stands for itself.
    Text(String),
    /// What another column of the same row says.
    Column(String),
    /// One or several of some options.
    Choice(Choice),
}

/// `{a|b}`, `{2$$ and $$a|b|c}` or a wildcard.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// What there is to choose from.
    pub options: Vec<Weighted>,
    /// Fewest options to take; different ones, and their order matters.
    pub least: usize,
    /// Most options to take.
    pub most: usize,
    /// What stands between them.
    pub joiner: String,
}

/// An option and how often it is drawn, in comparison with the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// 1 where nothing is said. Without effect on which options there are.
    pub weight: f64,
    /// What the option stands for.
    pub sequence: Sequence,
}

/// A part of an expanded cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Stands for itself.
    Text(String),
    /// What another column of the same row says.
    Column(String),
}

/// Returns how many texts `sequence` stands for; `u64::MAX` for more than that.
pub fn count(sequence: &[Node]) -> u64 {
    sequence.iter().map(Node::count).fold(1, u64::saturating_mul)
}

/// Returns all that `sequence` stands for; what stands last changes fastest.
pub fn all(sequence: &[Node]) -> Vec<Vec<Piece>> {
    let mut texts = vec![Vec::new()];
    for node in sequence {
        let parts = node.all();
        texts = texts.iter().flat_map(|text| parts.iter().map(move |part| [&text[..], part].concat())).collect();
    }
    texts
}

/// Returns one of the texts that `sequence` stands for.
pub fn draw(sequence: &[Node], dice: &mut Dice) -> Vec<Piece> {
    sequence.iter().flat_map(|node| node.draw(dice)).collect()
}

impl Node {
    fn count(&self) -> u64 {
        match self {
            Node::Text(_) | Node::Column(_) => 1,
            Node::Choice(choice) => choice.count(),
        }
    }

    fn all(&self) -> Vec<Vec<Piece>> {
        match self {
            Node::Text(text) => vec![vec![Piece::Text(text.clone())]],
            Node::Column(name) => vec![vec![Piece::Column(name.clone())]],
            Node::Choice(choice) => choice.all(),
        }
    }

    fn draw(&self, dice: &mut Dice) -> Vec<Piece> {
        match self {
            Node::Text(text) => vec![Piece::Text(text.clone())],
            Node::Column(name) => vec![Piece::Column(name.clone())],
            Node::Choice(choice) => choice.draw(dice),
        }
    }
}

impl Choice {
    /// Returns how many options can be taken at least and at most.
    fn bounds(&self) -> (usize, usize) {
        let most = self.most.min(self.options.len());
        (self.least.min(most), most)
    }

    fn count(&self) -> u64 {
        // Ways to take k options of which each stands for so many: k! times the elementary symmetric polynomial.
        let (least, most) = self.bounds();
        let mut ways = vec![0_u64; most + 1];
        ways[0] = 1;
        for option in &self.options {
            let texts = count(&option.sequence);
            for taken in (1..=most).rev() {
                ways[taken] = ways[taken].saturating_add(ways[taken - 1].saturating_mul(texts));
            }
        }
        let orders = |taken: usize| (1..=taken as u64).fold(1, u64::saturating_mul);
        (least..=most).fold(0, |sum: u64, taken| sum.saturating_add(ways[taken].saturating_mul(orders(taken))))
    }

    fn all(&self) -> Vec<Vec<Piece>> {
        let texts: Vec<_> = self.options.iter().map(|option| all(&option.sequence)).collect();
        let (least, most) = self.bounds();
        let mut found = Vec::new();
        for taken in least..=most {
            self.continued(&texts, taken, &mut Vec::new(), Vec::new(), &mut found);
        }
        found
    }

    /// Adds all texts that begin with `text`, made of the options `used`, and take as many more as are missing from `taken`.
    fn continued(
        &self,
        texts: &[Vec<Vec<Piece>>],
        taken: usize,
        used: &mut Vec<usize>,
        text: Vec<Piece>,
        found: &mut Vec<Vec<Piece>>,
    ) {
        if used.len() == taken {
            found.push(text);
            return;
        }
        let used_before = used.clone();
        for (at, parts) in texts.iter().enumerate().filter(|(at, _)| !used_before.contains(at)) {
            for part in parts {
                let longer = self.joined(&text, used.len(), part);
                used.push(at);
                self.continued(texts, taken, used, longer, found);
                used.pop();
            }
        }
    }

    fn draw(&self, dice: &mut Dice) -> Vec<Piece> {
        let (least, most) = self.bounds();
        let taken = least + dice.below((most - least + 1) as u64) as usize;
        let mut left: Vec<&Weighted> = self.options.iter().collect();
        let mut text = Vec::new();
        for number in 0..taken {
            let weights: Vec<f64> = left.iter().map(|option| option.weight).collect();
            let option = left.remove(dice.weighted(&weights));
            text = self.joined(&text, number, &draw(&option.sequence, dice));
        }
        text
    }

    fn joined(&self, text: &[Piece], before: usize, part: &[Piece]) -> Vec<Piece> {
        let joiner: &[Piece] = if before > 0 { &[Piece::Text(self.joiner.clone())] } else { &[] };
        [text, joiner, part].concat()
    }
}
