-- inner
select e.id, d.name from employees e join departments d on e.dept_id = d.id;
-- inner_using
select id, p.b, q.c from (select a as id, b from pairs) p join (select a as id, c from others) q using (id);
-- left
select e.id, d.name from employees e left join departments d on e.dept_id = d.id;
-- right
select e.id, d.name from employees e right join departments d on e.dept_id = d.id;
-- full
select e.id, d.name from employees e full join departments d on e.dept_id = d.id;
-- left_where_null
select e.id from employees e left join departments d on e.dept_id = d.id where d.id is null;
-- cross
select d1.id as one, d2.id as two from departments d1 cross join departments d2;
-- comma_join
select e.id, d.name from employees e, departments d where e.dept_id = d.id and d.budget > 100;
-- duplicates_both_sides
select p.a, p.b, o.c from pairs p join others o on p.a = o.a;
-- left_duplicates
select p.a, p.b, o.c from pairs p left join others o on p.a = o.a;
-- full_duplicates
select p.a, p.b, o.a as oa, o.c from pairs p full join others o on p.a = o.a;
-- two_keys
select p.a, p.b from pairs p join others o on p.a = o.a and p.b = o.c;
-- null_safe_keys
select p.a, p.b, o.c from pairs p join others o on p.a is not distinct from o.a;
-- expression_keys
select p.a, o.a as oa from pairs p join others o on p.a + 1 = o.a * 2;
-- keys_of_other_types
select p.a, o.a as oa from pairs p join others o on cast(p.a as double) = o.a;
-- text_keys
select s.id, f.color from sales s join fruits f on s.product = f.product where s.id < 100;
-- inner_residual
select e.id, d.id as dept from employees e join departments d on e.dept_id = d.id and e.salary > d.budget;
-- left_residual
select e.id, d.id as dept from employees e left join departments d on e.dept_id = d.id and e.salary > d.budget;
-- right_residual
select e.id, d.id as dept from employees e right join departments d on e.dept_id = d.id and e.salary > d.budget;
-- full_residual
select e.id, d.id as dept from employees e full join departments d on e.dept_id = d.id and e.salary > d.budget;
-- left_condition_on_left
select e.id, d.id as dept from employees e left join departments d on e.dept_id = d.id and e.id > 10;
-- inequality
select p.a, o.a as oa from pairs p join others o on p.a < o.a;
-- left_inequality
select p.a, o.a as oa from pairs p left join others o on p.a > o.a + 2;
-- right_inequality
select p.a, o.a as oa from pairs p right join others o on p.a > o.a + 2;
-- full_inequality
select p.a, o.a as oa from pairs p full join others o on p.a > o.a + 2;
-- range_join
select s.id, b.label from sales s join bands b on s.amount >= b.low and s.amount < b.high where s.id < 50;
-- left_range_join
select s.id, b.label from sales s left join bands b on s.amount >= b.low and s.amount < b.high where s.id < 50;
-- or_condition
select p.a, o.a as oa from pairs p join others o on p.a = o.a or p.b = o.c;
-- self_join
select e.id, m.name as manager from employees e left join employees m on e.manager_id = m.id;
-- three_tables
select s.id, e.name, d.city from sales s join employees e on s.emp_id = e.id join departments d on e.dept_id = d.id where s.quantity > 5;
-- star_group
select d.name, sum(s.amount) as total, count(*) as n from sales s join employees e on s.emp_id = e.id join departments d on e.dept_id = d.id group by d.name;
-- left_then_inner
select e.id, m.id as manager, d.name from employees e left join employees m on e.manager_id = m.id join departments d on d.id = coalesce(m.dept_id, e.dept_id);
-- natural
select count(*) as n from (select id, dept_id from employees) a natural join (select id, dept_id from employees) b;
-- semi
select d.id from departments d where exists (select 1 from employees e where e.dept_id = d.id);
-- left_semi_join
--duckdb select p.a, p.b from pairs p semi join others o on p.a = o.a
select p.a, p.b from pairs p left semi join others o on p.a = o.a;
-- left_anti_join
--duckdb select p.a, p.b from pairs p anti join others o on p.a = o.a
select p.a, p.b from pairs p left anti join others o on p.a = o.a;
-- join_empty
select e.id, x.id as other from employees e left join (select id from employees where id < 0) x on e.id = x.id where e.id < 5;
-- inner_empty
select e.id from employees e join (select id from employees where id < 0) x on e.id = x.id;
-- full_of_empty
select e.id, x.id as other from (select id from employees where id < 3) e full join (select id from employees where id < 0) x on e.id = x.id;
-- join_of_aggregates
select a.dept_id, a.n, b.most from (select dept_id, count(*) as n from employees group by dept_id) a join (select dept_id, max(salary) as most from employees group by dept_id) b on a.dept_id = b.dept_id;
-- same_names
select a.id, b.id as other, a.name, b.name as other_name from departments a join departments b on a.id = b.id + 1;
-- join_order_limit
select s.id, e.name from sales s join employees e on s.emp_id = e.id order by s.amount desc, s.id limit 7;
-- lateral_scalar
select d.id, x.most from departments d, lateral (select max(salary) as most from employees e where e.dept_id = d.id) x;
-- join_constant_true
select count(*) as n from departments a join departments b on true;
-- join_constant_false
select a.id, b.id as other from departments a left join departments b on false;
-- count_of_join
select count(*) as n from sales s join employees e on s.emp_id = e.id;
-- cross_of_unread_columns
select c from departments cross join (select count(*) as c from fruits);
-- cross_of_unread_columns_with_a_value
select x.k, x.s from departments d, (select min(a) as k, max(color) as s from pairs, fruits) x;
-- cross_of_two_unread
select count(*) as n, sum(c) as s from departments cross join fruits cross join (select count(*) as c from others);
-- left_of_unread_columns
select c from departments d left join (select max(low) as c from bands) b on true;
-- scalar_beside_unread_columns_as_a_key
select l.id from (select id, (select count(*) from fruits) as c from departments) l where exists (select 1 from (select id, (select count(*) from fruits) as c from departments) r where r.c = l.id);
